"""NodeExpandVolume: grow the device, then the filesystem, and never report a size the workload cannot use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Device
from katacsi.directvolume.shim import ResizeOutcome
from katacsi.errors import NotFound, Precondition, SizeOutOfRange, Unsupported, VolumeInUse
from katacsi.host import growth, mount, superblock
from katacsi.host.offloop import off_loop
from katacsi.model import AccessType, VolumeId
from katacsi.volumes.finding import find_volume
from katacsi.volumes.formatting import set_facts
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.pools import parse_id
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.publish.route import Job

if TYPE_CHECKING:
    from katacsi.backends.api import Backend, Volume
    from katacsi.volumes.context import Context
    from katacsi.volumes.formatting import Formatter
    from katacsi.volumes.growing import Growing
    from katacsi.volumes.publish.direct import DirectRoute
    from katacsi.volumes.publish.marks import Published
    from katacsi.volumes.requests import Expand

log = structlog.get_logger(__name__)


class Expansion:
    """Growing a volume where it is used."""

    def __init__(
        self, context: Context, formatter: Formatter, growing: Growing, direct_route: DirectRoute
    ) -> None:
        self._context = context
        self._formatter = formatter
        self._growing = growing
        self._direct_route = direct_route

    async def expand(self, request: Expand) -> int:
        """Grow the volume to what was asked for and give its size in bytes; large enough is success.

        Raises:
            NotFound: the volume is proven absent, or the path is not one of its own.
            Precondition: a guest has it and its runtime cannot grow it; restart the pod. The kubelet takes
                this for "in use" and does not ask again before the next mount.
            OutOfSpace: the pool has no room.
        """
        parsed = parse_id(VolumeId, request.volume_id)
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend, volume = await find_volume(self._context.pools, request.volume_id)
            published = self._check_path(request)
            self._check_possible(request, backend, volume)
            wanted = max(request.size.required, volume.size_bytes)
            device = await backend.attached(volume.id)
            if published is not None and published.way is Mode.DIRECT:
                device = device or await backend.attach(volume.id, {}, {})
                return await self._direct(self._job(backend, volume, device, published), wanted)
            if wanted > volume.size_bytes:
                await self._check_can_grow(volume, device)
            if device is None:
                return await backend.expand(volume.id, wanted)
            size = await self._grow_device(backend, volume, wanted)
            await self._grow_here(backend, volume, Device(device.path, size), published)
            return size

    def _check_path(self, request: Expand) -> Published | None:
        """Give the publish that the path means; None where it is the volume's staging path."""
        published = self._context.marks.published(request.volume_path)
        if published is not None and published.volume_id == request.volume_id:
            return published
        staged = self._context.marks.staged(request.volume_path)
        if staged is None or staged.volume_id != request.volume_id:
            raise NotFound(
                f"volume_path {request.volume_path}: volume {request.volume_id} is not staged or published "
                "there"
            )
        targets = self._context.marks.targets_of(request.volume_id)
        return targets[0] if targets else None

    def _check_possible(self, request: Expand, backend: Backend, volume: Volume) -> None:
        if not backend.features.expand:
            able = [pool.name for pool in self._context.pools if pool.features.expand]
            raise Unsupported(
                f"pool {volume.id.pool}: its volumes cannot grow; pools whose can: "
                f"{', '.join(able) or 'none'}"
            )
        if request.size.limit and request.size.limit < volume.size_bytes:
            raise SizeOutOfRange(
                f"volume {volume.id}: has {volume.size_bytes} bytes, more than the limit of "
                f"{request.size.limit}; volumes never "
                "shrink"
            )

    def _job(self, backend: Backend, volume: Volume, device: Device, published: Published) -> Job:
        stagings = self._context.marks.stagings_of(published.volume_id)
        if not stagings:
            raise Precondition(f"volume {volume.id}: is published and not staged; unpublish it first")
        return Job(
            backend=backend,
            volume=volume,
            device=device,
            published=replace(published, device=str(device.path)),
            staging=Path(stagings[0].path),
        )

    async def _grow_device(self, backend: Backend, volume: Volume, wanted: int) -> int:
        size = await backend.expand(volume.id, wanted)
        await backend.refresh(volume.id)
        return size

    async def _grow_here(
        self, backend: Backend, volume: Volume, device: Device, published: Published | None
    ) -> None:
        """Grow the filesystem of a volume that no guest has: mounted or not, but not a raw block device."""
        if published is not None and published.access_type == AccessType.BLOCK.value:
            return
        mounted = [
            s
            for s in self._context.marks.stagings_of(str(volume.id))
            if await off_loop(mount.at, Path(s.path))
        ]
        if mounted:
            await self._growing.mounted(backend, volume, device, Path(mounted[0].path))
        elif published is None:
            # Nobody has it mounted: ext4 grows now, the others when a host mount comes.
            if not await self._is_full_size(device):
                await self._check_can_grow(volume, device)
            await self._growing.unmounted(backend, volume, device)

    async def _check_can_grow(self, volume: Volume, device: Device | None) -> None:
        """Refuse what only a host mount could grow and a guest has written, before its device grows.

        What is on the device counts: its guest may have made another filesystem than the facts name.
        """
        if self._formatter.may_mount(volume.facts):
            return
        found = await off_loop(superblock.read, device.path) if device is not None else None
        fs_type = found.fs_type if found is not None else volume.facts.fs_type
        if fs_type != "ext4":
            raise Precondition(
                f"volume {volume.id}: a Kata guest wrote its {fs_type}, which only a host mount could grow; "
                "`guest_filesystems: refuse` rules that out, and nothing was changed. Set "
                "`guest_filesystems: allow`, or move the data to an ext4 volume"
            )

    # -- a volume that is handed to a guest ------------------------------------------------------------

    async def _direct(self, job: Job, wanted: int) -> int:
        """Grow a volume that has a record: in userspace while nobody holds it, else by its runtime."""
        if wanted <= job.volume.size_bytes and await self._is_full_size(job.device):
            # After a crash the device may have another number than at publish: fact, then record.
            await self._context.marks.add(job.published)
            volume = await set_facts(job.backend, job.volume, job.volume.facts.with_(pending_size=0))
            await self._direct_route.ensure_again(replace(job, volume=volume))
            return job.volume.size_bytes
        sandboxes = await self._context.writer.live(job.published.path)
        holders = ", ".join(f"sandbox {sandbox.id}" for sandbox in sandboxes)
        try:
            await self._check_can_grow(job.volume, job.device)
        except Precondition:
            if not await self._guest_can_grow(job):
                raise
            return await self._by_guest(job, wanted, holders)
        if sandboxes:
            return await self._by_guest(job, wanted, holders)
        # Without its record no pod can start with the volume; one that started before holds the device.
        await self._context.writer.remove(job.published.path)
        try:
            await job.backend.detach(job.volume.id)
        except VolumeInUse as held:
            return await self._by_guest(job, wanted, held.message)
        try:
            size = await job.backend.expand(job.volume.id, wanted)
            device = await job.backend.attach(job.volume.id, {}, {})
            if self._formatter.may_mount(job.volume.facts):
                await self._growing.by_mount(job.backend, job.volume, device, job.staging)
            else:
                await self._growing.unmounted(job.backend, job.volume, device)
        finally:
            await self._hand_over_again(job)
        return size

    async def _guest_can_grow(self, job: Job) -> bool:
        """Whether a guest's runtime can resize: one that can does so with the size that is there already."""
        outcome = await self._context.writer.notify_resize(job.published.path, job.device.size_bytes)
        return outcome is ResizeOutcome.DONE

    async def _by_guest(self, job: Job, wanted: int, holders: str) -> int:
        size = await self._grow_device(job.backend, job.volume, wanted)
        await self._direct_route.ensure_again(job)
        backend, volume = await find_volume(self._context.pools, job.published.volume_id)
        outcome = await self._context.writer.notify_resize(job.published.path, size)
        if outcome is ResizeOutcome.DONE:
            await set_facts(backend, volume, volume.facts.with_(pending_size=0))
            return size
        await set_facts(backend, volume, volume.facts.with_(pending_size=size))
        log.info(
            "growth waits for the pod's next start", volume=str(volume.id), size_bytes=size, holders=holders
        )
        raise Precondition(
            f"volume {volume.id}: its device has {size} bytes now, but a guest holds it ({holders}) and its "
            "runtime cannot grow the filesystem; restart the pod to use the new size"
        )

    async def _hand_over_again(self, job: Job) -> None:
        """Put the record back, with the device that the volume has now: it may have another number."""
        backend, volume = await find_volume(self._context.pools, job.published.volume_id)
        device = await backend.attach(volume.id, {}, {})
        published = replace(job.published, device=str(device.path))
        await self._context.marks.add(published)
        await self._direct_route.ensure_again(replace(job, volume=volume, device=device, published=published))

    async def _is_full_size(self, device: Device) -> bool:
        found = await off_loop(superblock.read, device.path)
        return found is not None and growth.fills(found, device.size_bytes)
