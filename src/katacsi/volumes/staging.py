"""NodeStage and NodeUnstage: a device with a filesystem on it, and back. Nothing is mounted at stage.

The pod's runtime is known at publish, not here; so the host mount waits until a publish asks for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import AlreadyExists, HostError, VolumeInUse
from katacsi.host import block, mount, uuids
from katacsi.host.offloop import off_loop
from katacsi.model import AccessType, MalformedId, VolumeId
from katacsi.volumes import capabilities, parameters, paths, unused
from katacsi.volumes.finding import backend_of, look_up
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.pools import parse_id
from katacsi.volumes.publish.marks import Staged
from katacsi.volumes.publish.mode import Asked

if TYPE_CHECKING:
    from katacsi.backends.api import Backend, Device, Volume
    from katacsi.volumes.context import Context
    from katacsi.volumes.formatting import Formatter
    from katacsi.volumes.growing import Growing
    from katacsi.volumes.requests import Stage

log = structlog.get_logger(__name__)


class Staging:
    """The node's side of having a volume at hand."""

    def __init__(self, context: Context, formatter: Formatter, growing: Growing) -> None:
        self._context = context
        self._formatter = formatter
        self._growing = growing

    async def stage(self, request: Stage) -> None:
        """Attach the device and see that it holds the filesystem asked for.

        Raises:
            NotFound: the volume is proven absent, or not on this node.
            AlreadyExists: staged at this path with another capability.
            VolumeInUse: staged at another path.
        """
        parsed = parse_id(VolumeId, request.volume_id)
        paths.check("staging_target_path", request.staging_path)
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend = await backend_of(self._context.pools, parsed)
            await self._stage(backend, parsed, request)

    async def _stage(self, backend: Backend, volume_id: VolumeId, request: Stage) -> None:
        volume = await look_up(backend, volume_id)
        attributes = parameters.effective(volume.attributes, request.volume_context)
        asked = parameters.asked_for(attributes)
        capabilities.check(request.capability, asked)
        capabilities.check_kind(volume, request.capability)
        wanted = self._wanted(volume, request)
        self._check_other_stagings(wanted)
        if self._context.marks.staged(wanted.path) is not None and self._context.marks.targets_of(
            request.volume_id
        ):
            # Published: a guest may hold the device, so it is not even looked at.
            return
        device = await self._attach(backend, volume, request)
        if request.capability.access_type is AccessType.MOUNT:
            mkfs_options = attributes.get(parameters.MKFS_OPTIONS, "")
            volume, found = await self._formatter.ensure(
                backend, volume, device, wanted.fs_type, mkfs_options, for_guests=asked is Asked.DIRECT
            )
            await self._growing.tolerant(backend, volume, device, found)
        await self._context.marks.add(replace(wanted, device=str(device.path)))

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
            backend = await self._context.pools.holding(parsed)
            if targets := self._context.marks.targets_of(volume_id):
                raise VolumeInUse(
                    f"volume {volume_id}: is published at {targets[0].path}; unpublish it first"
                )
            await self._unstage(backend, parsed, staging_path)

    async def _unstage(self, backend: Backend, volume_id: VolumeId, staging_path: str) -> None:
        device = await backend.attached(volume_id)
        stagings = self._context.marks.stagings_of(str(volume_id))
        if device is not None and not stagings:
            await unused.require_no_record(self._context.writer, str(volume_id), device)
        await off_loop(_release_mounts, str(volume_id), staging_path, device.path if device else None)
        await backend.detach(volume_id)
        for staged in stagings:
            await self._context.marks.remove(staged)

    def _wanted(self, volume: Volume, request: Stage) -> Staged:
        capability = request.capability
        is_block = capability.access_type is AccessType.BLOCK
        default = self._context.settings.default_filesystem
        return Staged(
            path=request.staging_path,
            volume_id=request.volume_id,
            access_type=capability.access_type.value,
            access_mode=capability.access_mode.value,
            fs_type="" if is_block else capabilities.filesystem_for(volume, capability, default),
            mount_flags=capability.mount_flags,
        )

    def _check_other_stagings(self, wanted: Staged) -> None:
        here = self._context.marks.staged(wanted.path)
        if here is not None and replace(here, device="") != wanted:
            raise AlreadyExists(
                f"staging_target_path {wanted.path}: volume {here.volume_id} is staged there as "
                f"{here.access_type} {here.fs_type} {here.access_mode}; unstage it first"
            )
        for other in self._context.marks.stagings_of(wanted.volume_id):
            if other.path != wanted.path:
                raise VolumeInUse(
                    f"volume {wanted.volume_id}: is staged at {other.path}; unstage it there first"
                )

    async def _attach(self, backend: Backend, volume: Volume, request: Stage) -> Device:
        device = await backend.attach(volume.id, request.publish_context, request.secrets)
        if device.size_bytes != volume.size_bytes:
            raise HostError(
                f"volume {volume.id}: has {volume.size_bytes} bytes, but {device.path} shows "
                f"{device.size_bytes}; nothing was written. The device may belong to something else"
            )
        return device


def _release_mounts(volume_id: str, staging_path: str, device: Path | None) -> None:
    """Unmount our own staging mount; refuse while anything else of this volume is mounted."""
    number = block.device_number(device) if device else None
    if device:
        # A stage of a copy that was killed while it replayed the log; its retry may never come.
        uuids.end_replay(device)
    # By mount id: the kubelet's root may be a symlink, and the table shows paths without any.
    staged = {entry.id: entry for entry in mount.at(Path(staging_path))}
    for entry in staged.values():
        if entry.device != number:
            raise VolumeInUse(
                f"staging_target_path {staging_path}: {entry.source} is mounted there, which is not "
                f"volume {volume_id}; nothing was unmounted"
            )
    unused.require_no_mount(volume_id, device, apart_from=staged)
    if staged:
        mount.unmount(Path(staging_path))
