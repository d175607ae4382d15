"""How a volume's device gets into the guest: caches, drivers, asynchronous I/O, regular files.

The reasons are in docs/kata-contract.md; defaults are from the source of kata-containers 4.1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kataconfig import Flavour, failed, of_each
from katacsi.findings import Checks, Harm, Unread, note, ok, unknown, warning

if TYPE_CHECKING:
    from katacsi.doctor.kataconfig import KataConfiguration, Setting
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

DISKS: Final[Checks[Judge]] = Checks("Kata")

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


@DISKS.add(
    "kata-flushes",
    "`block_device_cache_noflush`",
    Harm.DATA,
    "The Go runtime tells QEMU to drop the guest's flushes: what a database has synced is lost when the node "
    "loses power. It counts only beside `block_device_cache_set`.",
)
@of_each
def flushes(one: KataConfiguration, _: Node) -> Result:
    """Look whether flushes reach the disk."""
    noflush = one.setting("block_device_cache_noflush", default=False)
    cache_set = one.setting("block_device_cache_set", default=False)
    if noflush.value is not True:
        return ok(one.name, noflush.place)
    if one.flavour is Flavour.GO and cache_set.value is True:
        return failed(one, noflush.place, noflush.remedy(value=False))
    return warning(one.name, f"{noflush.place}: has no effect here", "set it to false, before it has one")


@DISKS.add(
    "kata-block-device-cache",
    "`block_device_cache_set`",
    Harm.PODS,
    "The Go runtime cannot attach regular files with it (they work since Kata 3.28). katacsi hands over "
    "block devices only; records that others write may hold files.",
)
@of_each
def block_device_cache(one: KataConfiguration, _: Node) -> Result:
    """Say what does not work for others' records."""
    setting = one.setting("block_device_cache_set", default=False)
    if setting.value is True and one.flavour is Flavour.GO and one.hypervisor == "qemu":
        return note(one.name, f"{setting.place}: block devices work, regular files in others' records do not")
    return ok(one.name, setting.place)


@DISKS.add(
    "kata-block-device-aio",
    "`block_device_aio`, and the kernel's `io_uring_disabled`",
    Harm.PODS,
    "QEMU refuses a device with io_uring, the default of both runtimes, where the kernel forbids it (the "
    "kernels of RHEL and its kin do). In runtime-rs plugging such a device can fail (kata-containers "
    "#11686). `native` it refuses, too, unless the device is opened with O_DIRECT.",
)
@of_each
def block_device_aio(one: KataConfiguration, node: Node) -> Result | None:
    """Look whether QEMU may use what it is told to use."""
    if one.hypervisor != "qemu":
        return None
    setting = one.setting("block_device_aio", "io_uring")
    # An empty value stands for the default, as an absent one does.
    if setting.value in {"io_uring", ""}:
        return _io_uring(one, setting, node)
    missing = " and ".join(_missing_for_direct(one))
    if setting.value == "native" and missing:
        remedy = f"{setting.remedy('threads')}, or turn on {missing}"
        return failed(one, f"{setting.place}, without {missing}", remedy)
    return ok(one.name, setting.place)


def _io_uring(one: KataConfiguration, setting: Setting, node: Node) -> Result:
    disabled = node.kernel.io_uring_disabled
    unprivileged = one.setting("rootless", default=False).value is True
    place, remedy = setting.place, setting.remedy("threads")
    if isinstance(disabled, Unread):
        return unknown(one.name, f"{place}; {disabled.reason}", remedy)
    if disabled == 2 or (disabled == 1 and unprivileged):
        return failed(
            one,
            f"{place}, and /proc/sys/kernel/io_uring_disabled is {disabled}",
            f"{remedy}, or allow io_uring by sysctl kernel.io_uring_disabled=0",
        )
    if one.flavour is Flavour.RUST:
        return warning(one.name, place, f"if pods with volumes fail to start, {remedy}")
    return ok(one.name, place)


def _missing_for_direct(one: KataConfiguration) -> list[str]:
    """Name the keys that keep devices from being opened with O_DIRECT."""
    keys = ["block_device_cache_direct"]
    # runtime-rs never asks for the other one (crates/hypervisor/src/qemu/inner.rs).
    if one.flavour is not Flavour.RUST:
        keys.insert(0, "block_device_cache_set")
    return [key for key in keys if one.setting(key, default=False).value is not True]


@DISKS.add(
    "kata-block-device-driver",
    "`block_device_driver`",
    Harm.PODS,
    "A shim refuses a configuration with a driver that it does not know; the two runtimes know different "
    "ones. Nobody has tried volumes as persistent memory (`nvdimm`, `virtio-pmem`).",
)
@of_each
def block_device_driver(one: KataConfiguration, _: Node) -> Result:
    """Compare the driver with those that the runtime knows."""
    setting = one.setting("block_device_driver", "")
    known, disk = _DRIVERS[one.flavour or Flavour.GO]
    if setting.value and setting.value not in known:
        return failed(one, setting.place, setting.remedy(disk))
    if setting.value in _PERSISTENT_MEMORY:
        return warning(one.name, setting.place, setting.remedy(disk), Harm.DATA)
    return ok(one.name, setting.place)


@DISKS.add(
    "kata-sparse-files",
    "sparse images with runtime-rs and Cloud Hypervisor",
    Harm.SLOW,
    "Since Kata 4.0 it allocates regular files in full (kata-containers #13864). katacsi hands over loop "
    "devices, which are no regular files; records that others write may hold files.",
)
@of_each
def sparse_files(one: KataConfiguration, _: Node) -> Result | None:
    """Say where files would be filled."""
    affected = one.flavour is Flavour.RUST and one.hypervisor in {"clh", "cloud-hypervisor"}
    if not affected or (one.release is not None and one.release < (4, 0)):
        return None
    return note(
        one.name,
        "allocates regular files in full when they are attached; volumes of katacsi are block devices and "
        "stay sparse",
    )
