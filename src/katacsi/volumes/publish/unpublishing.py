"""NodeUnpublish: a volume comes back from its pod, from the path alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.directvolume import guard
from katacsi.directvolume.record import MAX_TARGET_BYTES, VOLUME_TYPE
from katacsi.errors import CorruptRecord, KatacsiError, Precondition
from katacsi.host import block, mount
from katacsi.host.offloop import off_loop
from katacsi.model import MalformedId, VolumeId
from katacsi.volumes import paths
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.publish.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.backends.api import Device
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.mark import Published

log = structlog.get_logger(__name__)


class Unpublishing:
    """The node's side of taking a volume back from a pod."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._marks = context.marks

    async def unpublish(self, volume_id: str, target_path: str) -> None:
        """Take the volume away from the target; absent is success. Data is never touched.

        Works from the path alone: the record goes first, so that no container can start with it, then the
        guard or bind, then the target that publish made, and the fact last, so that a crash is continued.

        Raises:
            VolumeInUse: the mount is busy.
            Precondition: the target was published for another volume.
        """
        paths.check("target_path", target_path)
        try:
            parsed = VolumeId.parse(volume_id)
        except MalformedId:
            return
        with self._context.locks.hold(volume_lock(parsed.name)):
            known = self._marks.published(target_path)
            if known is not None and known.volume_id != volume_id:
                raise Precondition(
                    f"target_path {target_path}: is published for volume {known.volume_id}, not {volume_id}"
                )
            flagged: tuple[Device, ...] = ()
            if known is not None and known.read_only and known.mode is not Mode.HOST:
                flagged = await self._devices_of(parsed)
            await off_loop(self._take_away, volume_id, target_path, known, flagged)
        log.debug("volume unpublished", target=target_path)

    async def _devices_of(self, volume_id: VolumeId) -> tuple[Device, ...]:
        """Say which devices a volume has, as far as that can be known: its pool may be gone by now."""
        try:
            backend = await self._context.pools.holding(volume_id)
            return await self._context.volumes.devices_of(backend, volume_id).look()
        except KatacsiError as error:
            log.warning("the device's read-only flag stays until the next stage", error=error.message)
            return ()

    def _take_away(
        self, volume_id: str, target_path: str, known: Published | None, flagged: Sequence[Device]
    ) -> None:
        is_direct = known.mode is Mode.DIRECT if known else self._is_direct(volume_id, target_path)
        if is_direct:
            self._context.writer.remove(target_path)
        mount.unmount(Path(target_path))
        mount.remove_target(Path(target_path))
        if [item.path for item in self._marks.targets_of(volume_id)] == [target_path]:
            for device in flagged:
                block.set_read_only(device.path, False)
        if known is not None:
            self._marks.remove(known)

    def _is_direct(self, volume_id: str, target_path: str) -> bool:
        """Tell without a fact whether a target was published to a guest: by its guard, else by its record.

        Raises:
            Precondition: the guard is another volume's.
        """
        guarded = guard.guard_of(target_path)
        if guarded is not None:
            if guarded != volume_id:
                raise Precondition(
                    f"target_path {target_path}: is guarded for volume {guarded}, not {volume_id}"
                )
            return True
        if len(target_path.encode(errors="surrogateescape")) > MAX_TARGET_BYTES:
            return False
        try:
            record = self._context.writer.read(target_path)
        except CorruptRecord:
            return True
        return record is not None and record.volume_type == VOLUME_TYPE
