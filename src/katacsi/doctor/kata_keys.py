"""What an operator has to set in Kata's configurations: each check is of one key, and what follows from it.

The reasons are in docs/kata-contract.md; defaults are from the source of kata-containers 4.1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kata import failed, usable
from katacsi.doctor.kataconfig import Flavour
from katacsi.findings import Checks, Harm, Unread, note, ok, unknown, warning
from katacsi.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from katacsi.doctor.kataconfig import KataConfiguration
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

KEYS: Final[Checks[Judge]] = Checks("Kata")

_DEFAULT_ROOT: Final[Path] = Settings.model_fields["direct_volume_root"].default

_PERSISTENT_MEMORY: Final = frozenset({"nvdimm", "virtio-pmem"})

#: What each runtime knows, and its plainest disk. Source: runtime/pkg/katautils/config.go
#: (blockDeviceDriver), libs/kata-types/src/config/hypervisor/mod.rs (BlockDeviceInfo::validate).
_DRIVERS: Final = {
    Flavour.GO: (
        frozenset({"virtio-scsi", "virtio-blk", "virtio-blk-ccw", "virtio-mmio", "nvdimm"}),
        "virtio-blk",
    ),
    Flavour.RUST: (
        frozenset({"virtio-scsi", "virtio-blk-pci", "virtio-blk-ccw", "virtio-blk-mmio", "virtio-pmem"}),
        "virtio-blk-pci",
    ),
}


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


# -- how a device gets into the guest -------------------------------------------------------------------


@KEYS.add(
    "kata-flushes",
    "`block_device_cache_noflush`",
    Harm.DATA,
    "The Go runtime tells QEMU to drop the guest's flushes: what a database has synced is lost when the node "
    "loses power. It counts only beside `block_device_cache_set`.",
)
def flushes(node: Node) -> Iterator[Result]:
    """Look whether flushes reach the disk."""
    for one in usable(node):
        noflush = one.of_hypervisor("block_device_cache_noflush", default=False)
        cache_set = one.of_hypervisor("block_device_cache_set", default=False)
        place = one.place("block_device_cache_noflush", noflush)
        if noflush.value is not True:
            yield ok(one.name, place)
        elif one.flavour is Flavour.GO and cache_set.value is True:
            yield failed(one, place, one.remedy("block_device_cache_noflush", value=False, setting=noflush))
        else:
            yield warning(one.name, f"{place}: has no effect here", "set it to false, before it has one")


@KEYS.add(
    "kata-block-device-cache",
    "`block_device_cache_set`",
    Harm.PODS,
    "The Go runtime cannot attach regular files with it (they work since Kata 3.28). katacsi hands over "
    "block devices only; records that others write may hold files.",
)
def block_device_cache(node: Node) -> Iterator[Result]:
    """Say what does not work for others' records."""
    for one in usable(node):
        setting = one.of_hypervisor("block_device_cache_set", default=False)
        place = one.place("block_device_cache_set", setting)
        if setting.value is True and one.flavour is Flavour.GO and one.hypervisor == "qemu":
            yield note(one.name, f"{place}: block devices work, regular files in others' records do not")
        else:
            yield ok(one.name, place)


@KEYS.add(
    "kata-block-device-aio",
    "`block_device_aio`, and the kernel's `io_uring_disabled`",
    Harm.PODS,
    "QEMU refuses a device with io_uring, the default of both runtimes, where the kernel forbids it (the "
    "kernels of RHEL and its kin do). In runtime-rs plugging such a device can fail (kata-containers "
    "#11686). `native` it refuses, too, unless the device is opened with O_DIRECT.",
)
def block_device_aio(node: Node) -> Iterator[Result]:
    """Look whether QEMU may use what it is told to use."""
    disabled = node.kernel.io_uring_disabled
    for one in usable(node):
        if one.hypervisor != "qemu":
            continue
        setting = one.of_hypervisor("block_device_aio", "io_uring")
        place = one.place("block_device_aio", setting)
        remedy = one.remedy("block_device_aio", "threads", setting)
        unprivileged = one.of_hypervisor("rootless", default=False).value is True
        missing = _missing_for_direct(one)
        if setting.value == "native" and missing:
            keys = " and ".join(missing)
            yield failed(one, f"{place}, without {keys}", f"{remedy}, or turn on {keys}")
        # An empty value stands for the default, as an absent one does.
        elif setting.value not in {"io_uring", ""}:
            yield ok(one.name, place)
        elif isinstance(disabled, Unread):
            yield unknown(one.name, f"{place}; {disabled.reason}", remedy)
        elif disabled == 2 or (disabled == 1 and unprivileged):
            yield failed(
                one,
                f"{place}, and /proc/sys/kernel/io_uring_disabled is {disabled}",
                f"{remedy}, or allow io_uring by sysctl kernel.io_uring_disabled=0",
            )
        elif one.flavour is Flavour.RUST:
            yield warning(one.name, place, f"if pods with volumes fail to start, {remedy}")
        else:
            yield ok(one.name, place)


@KEYS.add(
    "kata-block-device-driver",
    "`block_device_driver`",
    Harm.PODS,
    "A shim refuses a configuration with a driver that it does not know; the two runtimes know different "
    "ones. Nobody has tried volumes as persistent memory (`nvdimm`, `virtio-pmem`).",
)
def block_device_driver(node: Node) -> Iterator[Result]:
    """Compare the driver with those that the runtime knows."""
    key = "block_device_driver"
    for one in usable(node):
        setting = one.of_hypervisor(key, "")
        place = one.place(key, setting)
        known, disk = _DRIVERS[one.flavour or Flavour.GO]
        if setting.value and setting.value not in known:
            yield failed(one, place, one.remedy(key, disk, setting))
        elif setting.value in _PERSISTENT_MEMORY:
            yield warning(one.name, place, one.remedy(key, disk, setting), Harm.DATA)
        else:
            yield ok(one.name, place)


@KEYS.add(
    "kata-sparse-files",
    "sparse images with runtime-rs and Cloud Hypervisor",
    Harm.SLOW,
    "Since Kata 4.0 it allocates regular files in full (kata-containers #13864). katacsi hands over loop "
    "devices, which are no regular files; records that others write may hold files.",
)
def sparse_files(node: Node) -> Iterator[Result]:
    """Say where files would be filled."""
    for one in usable(node):
        affected = one.flavour is Flavour.RUST and one.hypervisor in {"clh", "cloud-hypervisor"}
        if affected and (one.release is None or one.release >= (4, 0)):
            yield note(
                one.name,
                "allocates regular files in full when they are attached; volumes of katacsi are block "
                "devices and stay sparse",
            )


def _missing_for_direct(one: KataConfiguration) -> list[str]:
    """Name the keys that keep devices from being opened with O_DIRECT."""
    keys = ["block_device_cache_direct"]
    # runtime-rs never asks for the other one (crates/hypervisor/src/qemu/inner.rs).
    if one.flavour is not Flavour.RUST:
        keys.insert(0, "block_device_cache_set")
    return [key for key in keys if one.of_hypervisor(key, default=False).value is not True]
