"""How a volume's device gets into the guest: caches, drivers, asynchronous I/O, regular files.

The reasons are in docs/kata-contract.md; defaults are from the source of kata-containers 4.1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kata_checks import failed, usable
from katacsi.doctor.kataconfig import Flavour
from katacsi.doctor.model import Checks, Harm, Unread, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.kataconfig import KataConfiguration
    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node

DISKS: Final = Checks("Kata")

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


@DISKS.add(
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


@DISKS.add(
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


@DISKS.add(
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


@DISKS.add(
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
