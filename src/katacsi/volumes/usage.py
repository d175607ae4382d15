"""NodeGetVolumeStats: how full a volume is, from whoever has its filesystem mounted; and how well it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.errors import HostError
from katacsi.host import health, mount
from katacsi.host.offloop import off_loop
from katacsi.model import Condition
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.publish.places import published_at
from katacsi.volumes.requests import Stats, Unit, Usage

if TYPE_CHECKING:
    from katacsi.backends.api import Volume
    from katacsi.directvolume.shim import GuestStats
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.requests import GetStats


class UsageReader:
    """Reads how full volumes are. It takes no lock: a look must not hinder a change, nor wait for one."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def stats(self, request: GetStats) -> Stats:
        """Give usage and condition of a volume at one of its paths.

        Of a direct volume without a live sandbox only the size is known; the host directory at its target is
        not the volume, and its numbers are never given.

        Raises:
            NotFound: the volume is proven absent, or the path is not one of its own.
        """
        backend, volume = await self._context.pools.find(request.volume_id)
        published = await published_at(self._context.marks, request.volume_id, request.volume_path)
        attachment = self._context.volumes.attachment_of(volume.id)
        condition = await backend.condition(volume.id, attachment)
        if condition.abnormal:
            return Stats((Usage(Unit.BYTES, volume.size_bytes),), condition)
        if published is not None and published.mode is Mode.DIRECT:
            return await self._of_guest(volume, published, condition)
        if published is not None and published.mode is Mode.BLOCK:
            return Stats((Usage(Unit.BYTES, volume.size_bytes),), condition)
        return await self._of_mount(volume, request, published, condition)

    async def _of_guest(self, volume: Volume, published: Published, condition: Condition) -> Stats:
        guest = await self._context.writer.stats(published.path)
        if volume.facts.pending_size:
            condition = Condition(
                abnormal=False,
                message=f"grown to {volume.facts.pending_size} bytes; the filesystem follows when the pod is "
                "restarted",
            )
        if guest is None:
            return Stats((Usage(Unit.BYTES, volume.size_bytes),), condition)
        return Stats(_guest_usage(guest), condition)

    async def _of_mount(
        self, volume: Volume, request: GetStats, published: Published | None, condition: Condition
    ) -> Stats:
        path = Path(request.volume_path)
        mounts = await off_loop(mount.at, path)
        if not mounts:
            if published is None:
                # Staged, and not mounted before a publish asks for it.
                return Stats((Usage(Unit.BYTES, volume.size_bytes),), condition)
            lost = Condition(abnormal=True, message=f"not mounted at {path}, where it was published")
            return Stats((Usage(Unit.BYTES, volume.size_bytes),), lost)
        if reason := await off_loop(_trouble, mounts[-1]):
            condition = Condition(abnormal=True, message=f"{reason}; see the kernel's log")
        try:
            room = await off_loop(mount.usage, path)
        except HostError as error:
            return Stats(
                (Usage(Unit.BYTES, volume.size_bytes),), Condition(abnormal=True, message=error.message)
            )
        return Stats(
            (
                Usage(Unit.BYTES, room.total_bytes, room.available_bytes, room.used_bytes),
                Usage(Unit.INODES, room.total_inodes, room.free_inodes, room.used_inodes),
            ),
            condition,
        )


def _trouble(entry: mount.Mount) -> str:
    if reason := health.why_not_writable(entry):
        return reason
    if count := health.errors_counted(entry):
        return f"the kernel has counted {count} errors in the filesystem; stop its pods, and it is checked"
    return ""


def _guest_usage(guest: GuestStats) -> tuple[Usage, ...]:
    return (
        Usage(Unit.BYTES, guest.total_bytes, guest.available_bytes, guest.used_bytes),
        Usage(Unit.INODES, guest.total_inodes, guest.available_inodes, guest.used_inodes),
    )
