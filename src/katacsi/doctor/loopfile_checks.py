"""What pools of the backend `loopfile` need of the node: a disk that stays, and loop devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.pools import named
from katacsi.findings import Checks, Harm, Unread, failure, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.places import Place
    from katacsi.doctor.pools import PoolFacts
    from katacsi.findings import Result

LOOPFILE: Final[Checks[Judge]] = Checks("Pools")

#: Filesystems without a disk of their own: what is written there is gone after a reboot, or elsewhere.
_MEMORY: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs", "glusterfs")


@LOOPFILE.add(
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
            yield unknown(named(pool), pool.place.reason, "run doctor as root")
        elif pool.place.exists and pool.place.mounted is None:
            yield unknown(named(pool), f"the filesystem of {pool.place.path} is not known")
        elif pool.place.exists:
            yield _disk(pool, pool.place)


def _disk(pool: PoolFacts, place: Place) -> Result:
    subject, mounted = named(pool), place.mounted
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


@LOOPFILE.add(
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
