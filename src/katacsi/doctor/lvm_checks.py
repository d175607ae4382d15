"""What pools of the backend `lvm` need of the node: device-mapper, and an LVM that shares them safely."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm.settings import LvmSettings, VolumeType
from katacsi.doctor.pools import named
from katacsi.findings import Checks, Harm, Unread, failure, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.pools import PoolFacts
    from katacsi.findings import Result

LVM: Final[Checks[Judge]] = Checks("Pools")

#: Modules of device-mapper for each type of volume.
_TARGETS: Final = {
    VolumeType.THIN: ("thin-pool", "dm_thin_pool"),
    VolumeType.RAID1: ("raid", "dm_raid"),
    VolumeType.RAID5: ("raid", "dm_raid"),
    VolumeType.RAID6: ("raid", "dm_raid"),
    VolumeType.RAID10: ("raid", "dm_raid"),
}


@LVM.add(
    "pool-device-mapper",
    "device-mapper, for `lvm` pools",
    Harm.PODS,
    "A logical volume is a device of device-mapper; thin pools and RAID need targets of their own.",
)
def device_mapper(node: Node) -> Iterator[Result]:
    """Look for the driver and the targets of the pool's own type."""
    kernel = node.kernel
    for pool, own in _lvm(node):
        subject = named(pool)
        if not kernel.device_mapper:
            yield failure(
                subject,
                "device-mapper is not there (/proc/misc, /dev/mapper/control)",
                "run modprobe dm_mod on the node; give a container the node's /dev",
            )
            continue
        target, module = _TARGETS.get(own.default_type, ("", ""))
        loaded, modules = kernel.targets, kernel.modules
        if not target or (not isinstance(loaded, Unread) and target in loaded):
            yield ok(subject, f"device-mapper, for volumes of type {own.default_type.value}")
        elif isinstance(modules, Unread):
            first = loaded.reason if isinstance(loaded, Unread) else f"target {target} is not loaded"
            yield unknown(subject, f"{first}; {modules.reason}", f"look with modprobe {module}")
        elif module in modules:
            yield ok(subject, f"target {target} is a module, loaded when it is needed")
        else:
            yield failure(
                subject,
                f"kernel {kernel.release} has neither target {target} nor a module {module}",
                "use another kernel, or another type of volumes",
            )


@LVM.add(
    "pool-lvm",
    "LVM, its version and its locks, for `lvm` pools",
    Harm.DATA,
    "katacsi needs LVM 2.03 (2.02 has lvmetad, whose cache may be wrong). LVM on the node and LVM here "
    "change one volume group: only common locks keep them apart.",
)
def lvm(node: Node) -> Iterator[Result]:
    """Look at the program and at the folder of the locks."""
    for pool, own in _lvm(node):
        subject, version, locks = named(pool), pool.lvm_version, pool.lvm_locks
        if isinstance(version, Unread):
            yield unknown(subject, version.reason, "install lvm2, or set exec and program")
        elif (release := _release(version)) is None or release < (2, 3):
            yield failure(
                subject, f"LVM {version or 'of no version'}", "install LVM 2.03 or newer", Harm.PODS
            )
        else:
            yield ok(subject, f"LVM {version}")
        if isinstance(locks, Unread):
            yield unknown(subject, locks.reason)
        elif locks is not None and (locks.hosts is False or (node.contained and not locks.exists)):
            yield failure(
                subject,
                f"lock_directory {own.lock_directory} is not the node's",
                f"mount the node's {own.lock_directory} there (hostPath, DirectoryOrCreate)",
            )
        elif locks is not None:
            yield ok(subject, f"locks in {own.lock_directory}")


@LVM.add(
    "pool-lvm-scan",
    "`scan_lvs` of the node's own LVM, for `lvm` pools",
    Harm.DATA,
    "With it the node's LVM looks into logical volumes, and may activate a volume group that a guest has "
    "made there. katacsi itself never looks.",
)
def lvm_scan(node: Node) -> Iterator[Result]:
    """Look at lvm.conf of the node."""
    for pool, _ in _lvm(node):
        scans = node.host_lvm_scans_volumes
        if isinstance(scans, Unread):
            yield unknown(named(pool), scans.reason)
        elif scans:
            yield warning(
                named(pool), "/etc/lvm/lvm.conf: devices/scan_lvs = 1", "set it to 0, LVM's default"
            )
        else:
            yield ok(named(pool), "the node's LVM does not look into volumes")


def _lvm(node: Node) -> Iterator[tuple[PoolFacts, LvmSettings]]:
    return ((pool, pool.settings) for pool in node.pools if isinstance(pool.settings, LvmSettings))


def _release(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None
