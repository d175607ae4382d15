"""What an operator has to set in Kata's configurations: each check is of one key, and what follows from it.

The reasons are in docs/kata-contract.md; defaults are from the source of kata-containers 4.1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kataconfig import Flavour, failed, of_each
from katacsi.findings import Checks, Harm, note, ok, warning
from katacsi.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.doctor.kataconfig import KataConfiguration
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

KEYS: Final[Checks[Judge]] = Checks("Kata")

_DEFAULT_ROOT: Final[Path] = Settings.model_fields["direct_volume_root"].default


@KEYS.add(
    "kata-block-device-use",
    "`disable_block_device_use`",
    Harm.PODS,
    "With `true` the Go runtime does not even read the record and shares the host's directory instead; "
    "katacsi's guard turns the pod's writes into errors. runtime-rs fails to attach the device. The files "
    "that the Go runtime ships with have `true` since Kata 3.26.",
)
@of_each
def block_device_use(one: KataConfiguration, _: Node) -> Result:
    """Look whether devices are handed over at all."""
    setting = one.setting("disable_block_device_use", default=False)
    if one.flavour is Flavour.GO and one.hypervisor == "firecracker":
        return ok(one.name, f"{one.path}: Firecracker has no other way than block devices")
    if setting.value is False:
        return ok(one.name, setting.place)
    if setting.value is True:
        return failed(one, setting.place, setting.remedy(value=False))
    return failed(one, f"{setting.place}: is no boolean", "write false")


@KEYS.add(
    "kata-hypervisor",
    "hypervisors without devices of this node",
    Harm.PODS,
    "A guest that runs elsewhere cannot be given a device of this node.",
)
@of_each
def hypervisor(one: KataConfiguration, _: Node) -> Result | None:
    """Look for guests that run elsewhere."""
    if one.hypervisor != "remote":
        return None
    return failed(
        one,
        f"{one.path}: [hypervisor.remote] starts its guests elsewhere",
        "use another RuntimeClass for pods with direct volumes",
    )


@KEYS.add(
    "kata-rootless",
    "`rootless`",
    Harm.PODS,
    "The hypervisor then runs as another user, who may not open the volume's device, which is root's. "
    "runtime-rs also looks for records below a folder of that user, and finds none.",
)
@of_each
def rootless(one: KataConfiguration, node: Node) -> Result:
    """Look as whom the hypervisor runs."""
    root = node.settings.direct_volume_root if node.settings else _DEFAULT_ROOT
    setting = one.setting("rootless", default=False)
    remedy = setting.remedy(value=False)
    if setting.value is not True:
        return ok(one.name, setting.place)
    if one.flavour is Flavour.GO:
        return failed(one, setting.place, remedy)
    if root == _DEFAULT_ROOT:
        remedy = f"{remedy}; or point direct_volume_root below the folder of that user"
        return failed(one, setting.place, remedy)
    return warning(one.name, setting.place, "try a direct volume before you rely on it")


@KEYS.add(
    "kata-emptydir",
    "`emptydir_mode`",
    Harm.NONE,
    "With `block-…` Kata keeps records for emptyDirs in the same root. They are Kata's own: katacsi leaves "
    "them alone, and so should you.",
)
@of_each
def emptydir(one: KataConfiguration, _: Node) -> Result | None:
    """Say whether the root is shared with Kata itself."""
    setting = one.setting("runtime.emptydir_mode", "shared-fs")
    if not str(setting.value).startswith("block-"):
        return None
    return note(one.name, f"{setting.place}: Kata keeps records of its own in the shared root")


@KEYS.add(
    "kata-confidential",
    "confidential guests",
    Harm.PODS,
    "A policy made by genpolicy expects a shared mount for a PVC and refuses a container with a direct "
    "volume; statistics from the guest are denied, too.",
)
@of_each
def confidential(one: KataConfiguration, _: Node) -> Result | None:
    """Look for guests whose policy may refuse direct volumes."""
    guest = one.setting("confidential_guest", default=False)
    # Configurations for trying policies without the hardware have no confidential guest.
    emptydir_mode = one.setting("runtime.emptydir_mode", "shared-fs")
    if guest.value is not True and emptydir_mode.value != "block-encrypted":
        return None
    return warning(
        one.name,
        guest.place if guest.value is True else emptydir_mode.place,
        'allow the volume in the policy, or use block volumes or `katacsi.io/direct: "false"`',
    )
