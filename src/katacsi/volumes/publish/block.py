"""Publishing a raw block device: its node, bound onto a file at the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import VolumeInUse
from katacsi.host import block, mount
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from katacsi.volumes.publish.marks import Marks
    from katacsi.volumes.publish.route import Job
    from katacsi.volumes.undo import Undo


class BlockRoute:
    """A device node; Kata passes block devices through by itself."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def check(self, job: Job) -> None:
        """Refuse a read-only and a writable publish at once: the device is one or the other."""
        for other in self._marks.targets_of(str(job.volume.id)):
            if other.path != job.published.path and other.read_only != job.published.read_only:
                raise VolumeInUse(
                    f"volume {job.volume.id}: is published "
                    f"{'read-only' if other.read_only else 'writable'} at {other.path}, "
                    "and a block device cannot be both; unpublish it there first"
                )

    async def ensure(self, job: Job, undo: Undo) -> None:
        """Bind the device node to the target, read-only by the device itself where asked."""
        if not await off_loop(_bound, job):
            undo.add(f"bind at {job.target}", lambda: off_loop(_unbind, job))
            await off_loop(_bind, job)


def _bound(job: Job) -> bool:
    if not mount.at(job.target):
        return False
    if block.device_number(job.target) != block.device_number(job.device.path):
        raise VolumeInUse(
            f"target_path {job.target}: another device is mounted there, not volume {job.volume.id}"
        )
    block.set_read_only(job.device.path, job.published.read_only)
    return True


def _bind(job: Job) -> None:
    block.set_read_only(job.device.path, job.published.read_only)
    mount.ensure_target_file(job.target)
    mount.bind(job.device.path, job.target, read_only=False)


def _unbind(job: Job) -> None:
    mount.unmount(job.target)
    mount.remove_target(job.target)
