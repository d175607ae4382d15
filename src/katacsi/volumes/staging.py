"""NodeStage and NodeUnstage: a device with a filesystem on it, and back. Nothing is mounted at stage.

The pod's runtime is known at publish, not here; so the host mount waits until a publish asks for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import Attachment, Device
from katacsi.directvolume import guard
from katacsi.errors import AlreadyExists, HostError, KatacsiError, Precondition, VolumeInUse
from katacsi.host import block, mount, uuids
from katacsi.host.offloop import off_loop
from katacsi.model import AccessType, MalformedId, VolumeId
from katacsi.volumes import capabilities, parameters, paths, soundness, unused
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.publish.mark import Staged
from katacsi.volumes.publish.mode import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.volumes.context import Context
    from katacsi.volumes.formatting import Formatter
    from katacsi.volumes.growth import Growth
    from katacsi.volumes.requests import Stage
    from katacsi.volumes.volume import NodeVolume


log = structlog.get_logger(__name__)


class Staging:
    """The node's side of having a volume at hand."""

    def __init__(self, context: Context, formatter: Formatter, growth: Growth) -> None:
        self._context = context
        self._marks = context.marks
        self._formatter = formatter
        self._growth = growth

    async def stage(self, request: Stage) -> None:
        """Attach the device and see that it holds the filesystem asked for.

        Raises:
            NotFound: the volume is proven absent, or not on this node.
            AlreadyExists: staged at this path with another capability.
            VolumeInUse: staged at another path.
        """
        paths.check("staging_target_path", request.staging_path)
        opened = self._context.volumes.opened(
            request.volume_id,
            publish_context=request.publish_context,
            secrets=request.secrets,
            attaching=not self._marks.targets_of(request.volume_id),
        )
        async with opened as volume:
            attributes = parameters.effective(volume.stored.attributes, request.volume_context)
            try:
                wanted = self._checked(volume, request, attributes)
            except KatacsiError:
                await volume.give_back()
                raise
            staged = self._marks.staged(wanted.path)
            if staged is not None and self._marks.targets_of(request.volume_id):
                # Published: a guest may hold the device, so it is not even looked at.
                return
            await self._attach(volume)
            if not volume.untouched and await off_loop(self._is_published, volume):
                await self._marks.added(wanted.on(volume.devices))
                return
            if request.capability.access_type is AccessType.MOUNT:
                await self._ensure_filesystem(volume, wanted.fs_type, attributes)
            await self._marks.added(wanted.on(volume.devices))

    def _is_published(self, volume: NodeVolume) -> bool:
        """Whether a guard shows that a pod has the volume, although the marks were lost.

        Raises:
            VolumeInUse: no pod has it, and somebody holds its device.
        """
        source = guard.source_of(str(volume.id))
        if any(entry.source == source for entry in mount.mentioning(source, None, "")):
            return True
        unused.require_unheld(volume.id, volume.devices)
        for device in volume.devices:
            # A read-only publish that nobody took back must not reach the next user of the device.
            block.set_read_only(device.path, False)
        return False

    @tracing.phase("filesystem")
    async def _ensure_filesystem(
        self, volume: NodeVolume, fs_type: str, attributes: Mapping[str, str]
    ) -> None:
        await self._growth.finish(volume)
        found = await self._formatter.ensure(
            volume,
            fs_type,
            attributes.get(parameters.MKFS_OPTIONS, ""),
            for_guests=parameters.asked_for(attributes) is Asked.DIRECT,
        )
        if found.has_errors:
            await off_loop(soundness.ensure_checked, volume, found, self._context.settings.timeouts.check)
        await self._growth.before_publish(volume, found)

    async def unstage(self, volume_id: str, staging_path: str) -> None:
        """Let go of the device; absent is success. The data stays: only DeleteVolume frees it.

        Raises:
            VolumeInUse: a target, a guard or a record of this volume exists, or somebody holds the device.
        """
        paths.check("staging_target_path", staging_path)
        try:
            parsed = VolumeId.parse(volume_id)
        except MalformedId:
            return
        with self._context.locks.hold(volume_lock(parsed.name)):
            if targets := self._marks.targets_of(volume_id):
                raise VolumeInUse(
                    f"volume {volume_id}: is published at {targets[0].path}; unpublish it first"
                )
            stagings = self._marks.stagings_of(volume_id)
            try:
                backend = await self._context.pools.holding(parsed)
                stack = self._context.volumes.devices_of(backend, parsed)
                devices = await stack.look()
            except HostError as away:
                await self._release(parsed, staging_path, stagings, away)
                return
            if not devices and any(staged.devices for staged in stagings):
                # The storage knows of no device, and we have given one out: its image may have been removed.
                await self._release(parsed, staging_path, stagings, None)
                return
            if devices and not stagings:
                await off_loop(unused.require_no_record, self._context.writer, parsed, devices)
            was_mounted = await off_loop(_release_mounts, parsed, staging_path, devices)
            try:
                await stack.detach()
            except VolumeInUse:
                # Truthfully: of a mount in another namespace, or of a freeze, no descriptor tells.
                await off_loop(unused.require_not_mounted_elsewhere, parsed, devices)
                if was_mounted:
                    await off_loop(_require_not_frozen, parsed, devices[-1], stagings)
                raise
            for staged in stagings:
                await self._marks.removed(staged)

    async def _release(
        self, volume_id: VolumeId, staging_path: str, stagings: Sequence[Staged], away: HostError | None
    ) -> None:
        """Let go of a device by what this boot's marks and the kernel know: its pool cannot be asked.

        Raises:
            HostError: it has a device that nothing proves to be its own; or the pool is not configured.
        """
        backend = self._context.pools.unasked(volume_id)
        if backend is None:
            raise away or Precondition(f"volume {volume_id}: pool {volume_id.pool!r} is not configured here")
        stack = self._context.volumes.devices_of(backend, volume_id)
        remembered = [Path(name) for staged in stagings[:1] for name in staged.devices]
        devices = await off_loop(_still_mounted, remembered, staging_path)
        await off_loop(_release_mounts, volume_id, staging_path, devices)
        context = stagings[0].publish_context if stagings else {}
        await stack.release(Attachment(remembered[0] if remembered else None, context))
        for staged in stagings:
            await self._marks.removed(staged)
            reason = away.message if away else "its device is known to the kernel only"
            log.warning("a volume was taken down without its pool", volume=str(volume_id), reason=reason)

    def _checked(self, volume: NodeVolume, request: Stage, attributes: Mapping[str, str]) -> Staged:
        capabilities.check(request.capability, parameters.asked_for(attributes))
        capabilities.check_kind(volume.stored, request.capability)
        wanted = self._wanted(volume, request)
        capabilities.check_mount_flags(request.capability, wanted.fs_type)
        self._check_other_stagings(wanted)
        return wanted

    def _wanted(self, volume: NodeVolume, request: Stage) -> Staged:
        capability = request.capability
        is_block = capability.access_type is AccessType.BLOCK
        default = self._context.settings.default_filesystem
        return Staged(
            path=request.staging_path,
            volume_id=request.volume_id,
            access_type=capability.access_type.value,
            access_mode=capability.access_mode.value,
            fs_type="" if is_block else capabilities.filesystem_for(volume.stored, capability, default),
            mount_flags=capability.mount_flags,
            publish_context=dict(request.publish_context),
        )

    def _check_other_stagings(self, wanted: Staged) -> None:
        here = self._marks.staged(wanted.path)
        asked = here and replace(here, devices=(), publish_context=wanted.publish_context)
        if here is not None and asked != wanted:
            raise AlreadyExists(
                f"staging_target_path {wanted.path}: volume {here.volume_id} is staged there as "
                f"{here.access_type} {here.fs_type} {here.access_mode}; unstage it first"
            )
        for other in self._marks.stagings_of(wanted.volume_id):
            if other.path != wanted.path:
                raise VolumeInUse(
                    f"volume {wanted.volume_id}: is staged at {other.path}; unstage it there first"
                )

    async def _attach(self, volume: NodeVolume) -> None:
        await volume.attach()
        device = volume.bottom
        if device.size_bytes != volume.size_bytes:
            raise HostError(
                f"{volume}: has {volume.size_bytes} bytes, but {device.path} shows {device.size_bytes}; "
                "nothing was written. The device may belong to something else"
            )


def _still_mounted(remembered: Sequence[Path], staging_path: str) -> list[Device]:
    """Give those of a volume's former devices that its staging path shows.

    A name that nothing shows any more may be another volume's device by now; what holds the volume's own is
    found when that is released.
    """
    numbers = {entry.device for entry in mount.at(Path(staging_path))}
    return [
        Device(path, 0)
        for path in remembered
        if path.is_block_device() and block.device_number(path) in numbers
    ]


def _release_mounts(volume_id: VolumeId, staging_path: str, devices: Sequence[Device]) -> bool:
    """Unmount our own staging mount, and tell whether there was one.

    Raises:
        VolumeInUse: anything else of this volume is mounted.
    """
    numbers = {block.device_number(device.path) for device in devices}
    if devices:
        # A stage of a copy that was killed while it replayed the log; its retry may never come.
        uuids.end_replay(devices[-1].path)
    # By mount id: the kubelet's root may be a symlink, and the table shows paths without any.
    staged = mount.at(Path(staging_path))
    for entry in staged:
        if entry.device not in numbers:
            raise VolumeInUse(
                f"staging_target_path {staging_path}: {entry.source} is mounted there, which is not "
                f"volume {volume_id}; nothing was unmounted"
            )
    unused.require_no_mount(volume_id, devices, apart_from=staged)
    if staged:
        mount.unmount(Path(staging_path))
    return bool(staged)


def _require_not_frozen(volume_id: VolumeId, device: Device, stagings: Sequence[Staged]) -> None:
    """Refuse a filesystem that somebody has frozen: unmounted it lives on in the kernel and holds its device.

    It is mounted again, as we had it until now, so that its owner can thaw it.

    Raises:
        VolumeInUse: it is frozen; the message has the command.
    """
    for staged in stagings:
        place = Path(staged.path)
        flags = [*staged.mount_flags, *(["nouuid"] if staged.fs_type == "xfs" else [])]
        mount.mount_filesystem(device.path, place, staged.fs_type, flags)
        if mount.freeze(place):
            mount.thaw(place)
            mount.unmount(place)
            return
        raise VolumeInUse(
            f"volume {volume_id}: its filesystem is frozen, and only who froze it may thaw it: fsfreeze -u "
            f"{staged.path}"
        )
