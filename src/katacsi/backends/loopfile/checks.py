"""What pools of the backend `loopfile` need of the node: a disk that stays, and loop devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.backends.examination import BackendChecks, ExaminedPool
from katacsi.backends.loopfile.settings import LoopfileSettings
from katacsi.findings import Harm, Unread, failure, note, ok, unknown, warning
from katacsi.host import loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.examination import Examination
    from katacsi.findings import Place, Result

CHECKS: Final = BackendChecks[LoopfileSettings]("Pools")

#: Filesystems without a disk of their own: what is written there is gone after a reboot, or elsewhere.
_MEMORY: Final = ("tmpfs", "ramfs")
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "fuse.sshfs", "glusterfs")


@CHECKS.add(
    "pool-disk",
    "the disk of a `loopfile` pool",
    Harm.DATA,
    "A pool in memory is gone after a reboot. One on a disk that may be unmounted needs `require_mount`, or "
    "volumes land on the disk below it.",
)
async def disk(examination: Examination[LoopfileSettings]) -> AsyncIterator[Result]:
    """Look where a folder of images lies."""
    for pool in examination.pools:
        place = examination.node.place(pool.settings.directory)
        if isinstance(place, Unread):
            yield unknown(pool.subject, place.reason, "run doctor as root")
        elif place.exists and place.mounted is None:
            yield unknown(pool.subject, f"the filesystem of {place.path} is not known")
        elif place.exists:
            yield _disk(pool, place)


def _disk(pool: ExaminedPool[LoopfileSettings], place: Place) -> Result:
    subject, mounted = pool.subject, place.mounted
    assert mounted is not None
    fact = f"{place.path}: {mounted.type} ({mounted.target})"
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
    if place.path == mounted.target and not pool.settings.require_mount:
        return warning(
            subject,
            f"{fact} is a disk of its own, and require_mount is off",
            f"set pools.{pool.name}.require_mount to true",
        )
    return ok(subject, fact)


@CHECKS.add(
    "pool-loop-devices",
    "loop devices, for `loopfile` pools",
    Harm.PODS,
    "A volume of such a pool is a file behind a loop device.",
)
async def loop_devices(examination: Examination[LoopfileSettings]) -> AsyncIterator[Result]:
    """Look whether they work here."""
    yield _loop_devices(loop.available() or "", needed=bool(examination.pools))


def _loop_devices(problem: str, *, needed: bool) -> Result:
    if not problem:
        return ok("loop devices", "work")
    return failure("loop devices", problem, "see the message") if needed else note("loop devices", problem)
