"""Publishing a raw block device: its node, bound onto a file at the target."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from katacsi import tracing
from katacsi.errors import VolumeInUse
from katacsi.host import block, mount
from katacsi.volumes.publish.route import Found

if TYPE_CHECKING:
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.publish.marks import Marks
    from katacsi.volumes.undo import Undo
    from katacsi.volumes.volume import NodeVolume


class BlockRoute:
    """A device node; Kata passes block devices through by itself."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def check(self, volume: NodeVolume, wanted: Published) -> None:
        """Refuse a read-only and a writable publish at once: the device is one or the other."""
        for other in self._marks.targets_of(wanted.volume_id):
            if other.path != wanted.path and other.read_only != wanted.read_only:
                raise VolumeInUse(
                    f"{volume}: is published {'read-only' if other.read_only else 'writable'} at "
                    f"{other.path}, and a block device cannot be both; unpublish it there first"
                )

    def stands(self, volume: NodeVolume, published: Published) -> bool:
        """Whether the target shows the device, read-only by the device itself where asked."""
        if not mount.at(published.target):
            return False
        if block.device_number(published.target) != block.device_number(volume.device.path):
            raise VolumeInUse(f"target_path {published.path}: another device is mounted there, not {volume}")
        block.set_read_only(volume.device.path, published.read_only)
        return True

    def clear(self, volume: NodeVolume, published: Published) -> Found:
        """Nothing is in the way of a device node."""
        del volume, published
        return Found()

    def needs_preparing(self, volume: NodeVolume, published: Published, found: Found) -> bool:
        """Whether the fact is missing."""
        del found
        return not published.read_only and not volume.facts.raw_written

    @tracing.phase("prepare")
    async def prepare(self, volume: NodeVolume, published: Published, found: Found, undo: Undo) -> None:
        """Remember for good that a workload writes what no probe can tell from nothing."""
        del found, undo
        if not published.read_only:
            await volume.settle(raw_written=True)

    @tracing.phase("bind")
    def deliver(self, volume: NodeVolume, published: Published, undo: Undo) -> None:
        """Bind the device node to the target."""
        undo.add(f"bind at {published.path}", partial(_unbind, published))
        block.set_read_only(volume.device.path, published.read_only)
        mount.ensure_target_file(published.target)
        mount.bind(volume.device.path, published.target, read_only=False)


def _unbind(published: Published) -> None:
    mount.unmount(published.target)
    mount.remove_target(published.target)
