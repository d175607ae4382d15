"""NodeExpandVolume: grow the device, then the filesystem, and never report a size the workload cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Growing
from katacsi.directvolume.shim import ResizeOutcome
from katacsi.errors import (
    NotProvenSound,
    Precondition,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import holders, mount, superblock
from katacsi.host.offloop import off_loop
from katacsi.volumes.growth import is_full_size
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.publish.places import published_at
from katacsi.volumes.undo import Undo

if TYPE_CHECKING:
    from katacsi.volumes.context import Context
    from katacsi.volumes.growth import Growth
    from katacsi.volumes.publish.direct import DirectRoute
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.requests import Expand
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)

_WHY_NOT_BY_GUEST = {
    ResizeOutcome.UNSUPPORTED: "its runtime cannot grow the filesystem",
    ResizeOutcome.NO_LIVE_SANDBOX: "no live sandbox of it is known that could be told to grow the filesystem",
    ResizeOutcome.UNKNOWN: "whether it grew the filesystem is not known",
}


class Expansion:
    """Growing a volume where it is used: nobody has it, the host has it, or a guest."""

    def __init__(self, context: Context, growth: Growth, direct_route: DirectRoute) -> None:
        self._context = context
        self._marks = context.marks
        self._growth = growth
        self._direct_route = direct_route

    async def expand(self, request: Expand) -> int:
        """Grow the volume to what was asked for and give its size in bytes; large enough is success.

        Raises:
            NotFound: the volume is proven absent, or the path is not one of its own.
            Precondition: a guest has it and its runtime cannot grow it, or the host has it mounted and the
                kernel will not grow it so; restart the pod. The kubelet takes this for "in use", lets the pod
                start, and does not ask again before the next mount.
            OutOfSpace: the pool has no room.
        """
        async with self._context.volumes.opened(request.volume_id, secrets=request.secrets) as volume:
            published = await self._published(request)
            self._check_possible(request, volume)
            wanted = max(request.size.required, volume.size_bytes)
            if published is not None and published.mode is Mode.DIRECT:
                return await self._for_guest(volume, published, wanted)
            await volume.look()
            if wanted > volume.size_bytes:
                await self._check_can_grow(volume)
            if published is not None and published.mode is Mode.BLOCK:
                return await volume.grow(wanted)
            if staging := await off_loop(self._mounted_at, volume):
                return await self._on_host(volume, staging, wanted)
            return await self._unmounted(volume, published, wanted)

    async def _published(self, request: Expand) -> Published | None:
        """Give the publish that the path means; of a staging path, one that uses it, if there is one."""
        published = await published_at(self._marks, request.volume_id, request.volume_path)
        if published is not None:
            return published
        targets = self._marks.targets_of(request.volume_id)
        return targets[0] if targets else None

    def _check_possible(self, request: Expand, volume: NodeVolume) -> None:
        if not isinstance(volume.backend, Growing):
            able = [pool.name for pool in self._context.pools if pool.features.expand]
            raise Unsupported(
                f"pool {volume.id.pool}: its volumes cannot grow; pools whose can: "
                f"{', '.join(able) or 'none'}"
            )
        if request.size.limit and request.size.limit < volume.size_bytes:
            raise SizeOutOfRange(
                f"{volume}: has {volume.size_bytes} bytes, more than the limit of {request.size.limit}; "
                "volumes never shrink"
            )

    def _mounted_at(self, volume: NodeVolume) -> Path | None:
        """Give the staging path where the host has it mounted."""
        stagings = (Path(staged.path) for staged in self._marks.stagings_of(str(volume.id)))
        return next((path for path in stagings if mount.at(path)), None)

    async def _check_can_grow(self, volume: NodeVolume) -> None:
        """Refuse what only a host mount could grow and a guest has written, before its device grows.

        What is on the device counts: its guest may have made another filesystem than the facts name.
        """
        if self._may_mount(volume) or volume.facts.growing:  # half grown, it is an ext4
            return
        found = await off_loop(superblock.read, volume.device.path) if volume.devices else None
        fs_type = found.fs_type if found is not None else volume.facts.fs_type
        if fs_type != "ext4":
            raise Precondition(
                f"{volume}: a Kata guest wrote its {fs_type}, which only a host mount could grow; "
                "`guest_filesystems: refuse` rules that out, and nothing was changed. Set "
                "`guest_filesystems: allow`, or move the data to an ext4 volume"
            )

    def _may_mount(self, volume: NodeVolume) -> bool:
        return self._context.settings.may_mount(guest_written=volume.facts.guest_written)

    # -- the host has it, or nobody ----------------------------------------------------------------------

    async def _on_host(self, volume: NodeVolume, staging: Path, wanted: int) -> int:
        """Grow a volume whose filesystem is mounted here.

        Raises:
            Precondition: the filesystem cannot follow while it is mounted; the next mount finds it grown. The
                kubelet, which asks before it starts a pod's containers, then starts them with the old size,
                where any other error would have it ask for ever.
        """
        size = await volume.grow(wanted)
        try:
            await self._growth.mounted(volume, staging)
        except Precondition as error:
            await volume.settle(pending_size=size)
            raise Precondition(
                f"{volume}: its device has {size} bytes now, but {error.message}. Its pods go on with the "
                "old size; stop all of them on this node, and the next one finds it grown"
            ) from error
        return size

    async def _unmounted(self, volume: NodeVolume, published: Published | None, wanted: int) -> int:
        """Grow a volume that is mounted nowhere: ext4 at once, the others when a host mount comes."""
        size = await volume.grow(wanted)
        if volume.devices and published is None:
            if not volume.facts.growing and not await is_full_size(volume):
                await self._check_can_grow(volume)
            await self._growth.offline(volume)
        return size

    # -- a guest has it, or may have it any moment --------------------------------------------------------

    async def _for_guest(self, volume: NodeVolume, published: Published, wanted: int) -> int:
        """Grow a volume that has a record: in userspace while nobody holds it, else by its runtime."""
        await volume.attach()
        published = replace(published, device=str(volume.device.path))
        if wanted <= volume.size_bytes and not volume.facts.growing and await is_full_size(volume):
            await volume.settle(pending_size=0)
            await self._hand_over(volume, published)
            return volume.size_bytes
        writer = self._context.writer
        sandboxes = await off_loop(writer.live, published.path)
        who = ", ".join(f"sandbox {sandbox.id}" for sandbox in sandboxes)
        if not await self._host_can_grow(volume):
            if not await self._guest_can_grow(volume, published):
                await self._check_can_grow(volume)
            return await self._by_guest(volume, published, wanted, who)
        if sandboxes:
            return await self._by_guest(volume, published, wanted, who)
        # Without its record no pod can start with the volume; one that started before holds the device.
        await off_loop(writer.remove, published.path)
        try:
            await volume.detach()
        except VolumeInUse:
            device = await volume.attach()
            held_by = await off_loop(holders.now, device.path)
            return await self._by_guest(volume, published, wanted, ", ".join(map(str, held_by)))
        return await self._while_unheld(volume, published, wanted)

    async def _while_unheld(self, volume: NodeVolume, published: Published, wanted: int) -> int:
        """Grow a volume that is detached and has no record; its pod can start afterwards.

        Raises:
            NotProvenSound: then it cannot; its record stays away until a later call has mended that.
        """
        try:
            size = await volume.grow(wanted)
            await volume.attach()
            if self._may_mount(volume):
                await self._growth.by_mount(volume, Path(published.staging))
            else:
                await self._growth.offline(volume)
        except NotProvenSound:
            raise
        except BaseException:
            await self._hand_over_anew(volume, published)
            raise
        await self._hand_over_anew(volume, published)
        return size

    async def _hand_over_anew(self, volume: NodeVolume, published: Published) -> None:
        device = await volume.attach()  # it may have another number than before
        await self._hand_over(volume, replace(published, device=str(device.path)))

    async def _host_can_grow(self, volume: NodeVolume) -> bool:
        try:
            await self._check_can_grow(volume)
        except Precondition:
            return False
        return True

    async def _guest_can_grow(self, volume: NodeVolume, published: Published) -> bool:
        """Whether a guest's runtime can resize: one that can does so with the size that is there already."""
        outcome = await self._context.writer.notify_resize(published.path, volume.device.size_bytes)
        return outcome is ResizeOutcome.DONE

    async def _by_guest(self, volume: NodeVolume, published: Published, wanted: int, who: str) -> int:
        size = await volume.grow(wanted)
        await self._hand_over(volume, published)
        outcome = await self._context.writer.notify_resize(published.path, size)
        if outcome is ResizeOutcome.DONE:
            await volume.settle(pending_size=0)
            return size
        await volume.settle(pending_size=size)
        log.info("growth waits for the pod's next start", volume=str(volume.id), size_bytes=size, holders=who)
        guest = f"a guest has it ({who})" if who else "a guest may have it"
        raise Precondition(
            f"{volume}: its device has {size} bytes now, but {guest} and "
            f"{_WHY_NOT_BY_GUEST[outcome]}; restart the pod to use the new size"
        )

    async def _hand_over(self, volume: NodeVolume, published: Published) -> None:
        """Have mark, guard and record as they were; the filesystem is not looked at, a guest may have it."""
        await off_loop(self._hand_over_now, volume, published)

    def _hand_over_now(self, volume: NodeVolume, published: Published) -> None:
        # After a crash the device may have another number than at publish: marks, then record.
        for staged in self._marks.stagings_of(published.volume_id):
            self._marks.add(staged.on(volume.devices))
        self._marks.add(published)
        if not self._direct_route.stands(volume, published):
            self._direct_route.deliver(volume, published, Undo())
