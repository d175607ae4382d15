"""What an operator has to set in Kata's configurations: each check is of one key, and what follows from it.

The reasons are in docs/kata-contract.md; defaults are from the source of kata-containers 4.1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kata_checks import failed, usable
from katacsi.doctor.kataconfig import Flavour
from katacsi.doctor.model import Checks, Harm, note, ok, warning
from katacsi.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node

KEYS: Final = Checks("Kata")

_DEFAULT_ROOT: Final[Path] = Settings.model_fields["direct_volume_root"].default


@KEYS.add(
    "kata-block-device-use",
    "`disable_block_device_use`",
    Harm.PODS,
    "With `true` the Go runtime does not even read the record and shares the host's directory instead; "
    "katacsi's guard turns the pod's writes into errors. runtime-rs fails to attach the device. The files "
    "that the Go runtime ships with have `true` since Kata 3.26.",
)
def block_device_use(node: Node) -> Iterator[Result]:
    """Look whether devices are handed over at all."""
    key = "disable_block_device_use"
    for one in usable(node):
        setting = one.of_hypervisor(key, default=False)
        place = one.place(key, setting)
        if one.flavour is Flavour.GO and one.hypervisor == "firecracker":
            yield ok(one.name, f"{one.path}: Firecracker has no other way than block devices")
        elif setting.value is False:
            yield ok(one.name, place)
        elif setting.value is True:
            yield failed(one, place, one.remedy(key, value=False, setting=setting))
        else:
            yield failed(one, f"{place}: is no boolean", "write false")


@KEYS.add(
    "kata-hypervisor",
    "hypervisors without devices of this node",
    Harm.PODS,
    "A guest that runs elsewhere cannot be given a device of this node.",
)
def hypervisor(node: Node) -> Iterator[Result]:
    """Look for guests that run elsewhere."""
    for one in usable(node):
        if one.hypervisor == "remote":
            yield failed(
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
def rootless(node: Node) -> Iterator[Result]:
    """Look as whom the hypervisor runs."""
    root = node.settings.direct_volume_root if node.settings else _DEFAULT_ROOT
    for one in usable(node):
        setting = one.of_hypervisor("rootless", default=False)
        place = one.place("rootless", setting)
        remedy = one.remedy("rootless", value=False, setting=setting)
        if setting.value is not True:
            yield ok(one.name, place)
        elif one.flavour is Flavour.GO:
            yield failed(one, place, remedy)
        elif root == _DEFAULT_ROOT:
            yield failed(one, place, f"{remedy}; or point direct_volume_root below the folder of that user")
        else:
            yield warning(one.name, place, "try a direct volume before you rely on it")


@KEYS.add(
    "kata-emptydir",
    "`emptydir_mode`",
    Harm.NONE,
    "With `block-…` Kata keeps records for emptyDirs in the same root. They are Kata's own: katacsi leaves "
    "them alone, and so should you.",
)
def emptydir(node: Node) -> Iterator[Result]:
    """Say whether the root is shared with Kata itself."""
    for one in usable(node):
        setting = one.get("runtime.emptydir_mode", "shared-fs")
        if isinstance(setting.value, str) and setting.value.startswith("block-"):
            place = f'{setting.file or one.path}: [runtime] emptydir_mode = "{setting.value}"'
            yield note(one.name, f"{place}: Kata keeps records of its own in the shared root")


@KEYS.add(
    "kata-confidential",
    "confidential guests",
    Harm.PODS,
    "A policy made by genpolicy expects a shared mount for a PVC and refuses a container with a direct "
    "volume; statistics from the guest are denied, too.",
)
def confidential(node: Node) -> Iterator[Result]:
    """Look for guests whose policy may refuse direct volumes."""
    for one in usable(node):
        setting = one.of_hypervisor("confidential_guest", default=False)
        # Configurations for trying policies without the hardware have no confidential guest.
        emptydir_mode = one.get("runtime.emptydir_mode", "shared-fs")
        if setting.value is True or emptydir_mode.value == "block-encrypted":
            yield warning(
                one.name,
                one.place("confidential_guest", setting)
                if setting.value is True
                else f'{emptydir_mode.file}: [runtime] emptydir_mode = "block-encrypted"',
                'allow the volume in the policy, or use block volumes or `katacsi.io/direct: "false"`',
            )
