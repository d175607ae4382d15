"""The pools of the configuration, and what their backends need of the node.

What every backend can tell (whether its pool opens, and how much room it has) is asked of the backend itself;
what is known of the built-in ones beyond that is in a table by the backend's name, at the end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm.settings import LvmSettings, VolumeType
from katacsi.doctor.model import Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node, Place, PoolFacts

POOLS: Final = Checks("Pools")

#: Filesystems without a disk of their own: what is written there is gone after a reboot, or elsewhere.
_MEMORY: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs", "glusterfs")

#: Modules of device-mapper for each type of volume.
_TARGETS: Final = {
    VolumeType.THIN: ("thin-pool", "dm_thin_pool"),
    VolumeType.RAID1: ("raid", "dm_raid"),
    VolumeType.RAID5: ("raid", "dm_raid"),
    VolumeType.RAID6: ("raid", "dm_raid"),
    VolumeType.RAID10: ("raid", "dm_raid"),
}


@POOLS.add(
    "pool-usable",
    "each pool opens",
    Harm.PODS,
    "A pool that cannot be opened serves none of its volumes. The backend itself is asked, without changing "
    "anything.",
)
def usable(node: Node) -> Iterator[Result]:
    """Say which pools can be used."""
    if node.settings is None:
        yield note("pools", "no configuration was given", "give one by --config to have its pools checked")
    for pool in node.pools:
        subject = _subject(pool)
        if isinstance(pool.problem, Unread):
            yield unknown(subject, pool.problem.reason, "run doctor as root")
        elif pool.problem:
            yield failure(subject, pool.problem, "see the message")
        elif pool.unready:
            yield note(subject, "is not set up yet; the first `katacsi serve` does it")
        else:
            yield ok(subject, "opens")


@POOLS.add(
    "pool-room",
    "room for new volumes",
    Harm.NONE,
    "Without room no volume is created; the pods wait.",
)
def room(node: Node) -> Iterator[Result]:
    """Say how much room there is."""
    smallest = node.settings.default_volume_size if node.settings else MIB
    for pool in node.pools:
        available = pool.available_bytes
        if available is None:
            continue
        if available >= smallest:
            yield ok(_subject(pool), f"{format_size(available)} available")
        else:
            yield warning(
                _subject(pool),
                f"{format_size(available)} available, a volume by default has {format_size(smallest)}",
                "enlarge the pool, or delete volumes",
            )


@POOLS.add(
    "pool-disk",
    "the disk of a `loopfile` pool",
    Harm.DATA,
    "A pool in memory is gone after a reboot. One on a disk that may be unmounted needs `require_mount`, or "
    "volumes land on the disk below it.",
)
def disk(node: Node) -> Iterator[Result]:
    """Look where a folder of images lies."""
    for pool in node.pools:
        if pool.backend != "loopfile" or pool.place is None:
            continue
        if isinstance(pool.place, Unread):
            yield unknown(_subject(pool), pool.place.reason, "run doctor as root")
        elif pool.place.exists and pool.place.mounted is None:
            yield unknown(_subject(pool), f"the filesystem of {pool.place.path} is not known")
        elif pool.place.exists:
            yield _disk(pool, pool.place)


def _disk(pool: PoolFacts, place: Place) -> Result:
    subject, mounted = _subject(pool), place.mounted
    assert mounted is not None
    fact = f"{place.path}: {mounted.type} ({mounted.target})"
    required = bool(getattr(pool.settings, "require_mount", False))
    if mounted.type in _MEMORY:
        return failure(subject, f"{fact} is gone after a reboot", "put the pool on a disk")
    if mounted.type == "overlay":
        return failure(
            subject, f"{fact} is the container's own and goes with it", f"mount the node's {place.path} there"
        )
    if mounted.read_only:
        return failure(subject, f"{fact} is read-only", "check the disk, then mount it read-write", Harm.PODS)
    if mounted.type in _REMOTE:
        return warning(
            subject, f"{fact} is no local disk", "use ext4, XFS or btrfs on a disk of this node", Harm.SLOW
        )
    if place.path == mounted.target and not required:
        return warning(
            subject,
            f"{fact} is a disk of its own, and require_mount is off",
            f"set pools.{pool.name}.require_mount to true",
        )
    return ok(subject, fact)


@POOLS.add(
    "pool-loop-devices",
    "loop devices, for `loopfile` pools",
    Harm.PODS,
    "A volume of such a pool is a file behind a loop device.",
)
def loop_devices(node: Node) -> Iterator[Result]:
    """Look whether they work here."""
    needed = [pool for pool in node.pools if pool.backend == "loopfile"]
    problem = node.kernel.loop_problem
    if not problem:
        yield ok("loop devices", "work")
    elif needed:
        yield failure("loop devices", problem, "see the message")
    else:
        yield note("loop devices", problem)


@POOLS.add(
    "pool-device-mapper",
    "device-mapper, for `lvm` pools",
    Harm.PODS,
    "A logical volume is a device of device-mapper; thin pools and RAID need targets of their own.",
)
def device_mapper(node: Node) -> Iterator[Result]:
    """Look for the driver and the targets of the pool's own type."""
    kernel = node.kernel
    for pool, own in _lvm(node):
        subject = _subject(pool)
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


@POOLS.add(
    "pool-lvm",
    "LVM, its version and its locks, for `lvm` pools",
    Harm.DATA,
    "katacsi needs LVM 2.03 (2.02 has lvmetad, whose cache may be wrong). LVM on the node and LVM here "
    "change one volume group: only common locks keep them apart.",
)
def lvm(node: Node) -> Iterator[Result]:
    """Look at the program and at the folder of the locks."""
    for pool, own in _lvm(node):
        subject, version, locks = _subject(pool), pool.lvm_version, pool.lvm_locks
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


@POOLS.add(
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
            yield unknown(_subject(pool), scans.reason)
        elif scans:
            yield warning(
                _subject(pool), "/etc/lvm/lvm.conf: devices/scan_lvs = 1", "set it to 0, LVM's default"
            )
        else:
            yield ok(_subject(pool), "the node's LVM does not look into volumes")


def _lvm(node: Node) -> Iterator[tuple[PoolFacts, LvmSettings]]:
    return ((pool, pool.settings) for pool in node.pools if isinstance(pool.settings, LvmSettings))


def _release(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _subject(pool: PoolFacts) -> str:
    return f"pool {pool.name} ({pool.backend})"
