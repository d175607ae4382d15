"""Format once: mkfs runs only on a device that is proven blank, and only until facts say "formatted".

The order makes every crash decidable: the facts name the filesystem and its UUID before mkfs may begin, and
say "formatted" only after the result was read back. Nothing publishes a volume before that, so whatever a
torn mkfs left behind is ours to overwrite, and nothing else ever is.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import FormatState
from katacsi.errors import (
    DataLossAlarm,
    ForeignContent,
    HostError,
    InvalidRequest,
    OutOfSpace,
    Precondition,
    Unsupported,
)
from katacsi.host import block, mkfs, probe, superblock, uuids
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.host.superblock import Superblock
    from katacsi.metrics import Metrics
    from katacsi.settings import Settings
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)

#: Bytes that one step in a thread reads when a whole device has to be proven blank.
_STEP_BYTES = 256 << 20

_NO_UUID = ("", "00000000-0000-0000-0000-000000000000")


class Formatter:
    """Gives volumes their filesystem."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        # mkfs is processor and disk work; more of them at once than this only slows each down.
        self._at_once = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @tracing.phase("format")
    async def ensure(
        self, volume: NodeVolume, fs_type: str, mkfs_options: str, *, for_guests: bool = False
    ) -> Superblock:
        """See to a filesystem on the device: the one it has, or a new one if it is blank; give what is there.

        `for_guests`: nobody but a guest will get the volume. Then a new ext4 counts as written by one from
        the beginning, which spares the first publish a fact to store and takes nothing away: ext4 grows and
        is copied in userspace. For xfs the host's kernel is needed as long as it may be.

        Raises:
            Precondition: it has another filesystem than the one asked for.
            ForeignContent: something is on the device that katacsi did not put there.
            DataLossAlarm: it had a filesystem, and the device shows none.
            HostError: the device cannot be read or mkfs failed; an unreadable device is never "blank".
        """
        facts = volume.facts
        if facts.format is not FormatState.UNFORMATTED and facts.fs_type != fs_type:
            raise Precondition(
                f"{volume}: holds {facts.fs_type}, and {fs_type} was asked for; ask for {facts.fs_type}, or "
                "make a new volume"
            )
        if facts.format is FormatState.FORMATTED:
            return await self._verified(volume)
        zeroed = False
        if facts.format is FormatState.UNFORMATTED:
            await self._prove_blank(volume)
            zeroed = True
            await volume.settle(format=FormatState.FORMATTING, fs_type=fs_type, fs_uuid=str(uuid.uuid4()))
        else:
            await off_loop(self._prove_torn, volume)
        async with self._at_once:
            try:
                made = await off_loop(self._make, volume, mkfs_options, zeroed=zeroed)
            except HostError as error:
                if full := await volume.full():
                    raise OutOfSpace(f"{volume}: finds no room for its filesystem: {full}") from error
                raise
        await volume.settle(
            format=FormatState.FORMATTED,
            guest_written=volume.facts.guest_written or (for_guests and made.fs_type == "ext4"),
        )
        return made

    @tracing.phase("prove blank")
    async def _prove_blank(self, volume: NodeVolume) -> None:
        """Prove that nothing would be overwritten: that the whole device reads as zero."""
        if volume.facts.raw_written:
            raise ForeignContent(
                f"{volume}: a workload had it as a raw block device, and may have written what no probe "
                "recognises; it is never formatted. Use it with volumeMode Block, and make a new volume for "
                "a filesystem"
            )
        if volume.bottom.blank or await volume.backend.is_blank(volume.id, volume.attachment):
            return
        await off_loop(self._probe_blank, volume)
        # No signature and zero ends are no proof: somebody may have written where no probe looks.
        for offset in range(0, volume.device.size_bytes, _STEP_BYTES):
            if not await off_loop(block.reads_as_zero, volume.device.path, offset, _STEP_BYTES):
                raise ForeignContent(
                    f"{volume}: never formatted by katacsi, but {volume.device.path} holds data within "
                    f"{_STEP_BYTES >> 20} MiB of byte {offset}; nothing was written. Save what is there, "
                    "then delete the volume and make a new one"
                )

    def _probe_blank(self, volume: NodeVolume) -> None:
        device = volume.device.path
        found = probe.signature(device, timeout_s=self._settings.timeouts.probe)
        if found is not None:
            raise ForeignContent(
                f"{volume}: never formatted by katacsi, but {device} holds {found.describe()}; nothing was "
                "written. Save what is there, then delete the volume and make a new one"
            )
        if not block.ends_are_zero(device):
            raise ForeignContent(
                f"{volume}: never formatted by katacsi, but {device} does not read as zero; nothing was "
                "written. Save what is there, then delete the volume and make a new one"
            )

    def _prove_torn(self, volume: NodeVolume) -> None:
        """Make sure that what is there is a piece of the mkfs that the facts name, or nothing."""
        device, facts = volume.device.path, volume.facts
        found = probe.signature(device, timeout_s=self._settings.timeouts.probe)
        if found is None:
            return
        if found.type != facts.fs_type or found.uuid not in (facts.fs_uuid, *_NO_UUID):
            raise ForeignContent(
                f"{volume}: katacsi was making {facts.fs_type} {facts.fs_uuid} on it, but {device} holds "
                f"{found.describe()}; nothing was written"
            )
        if _was_mounted(device):
            raise DataLossAlarm(
                f"{volume}: its facts say that {facts.fs_type} {facts.fs_uuid} was being made, but {device} "
                "shows that it was mounted since; nothing was written. The pool lost newer facts: save what "
                "is on the device, and check the pool's disk"
            )

    def _make(self, volume: NodeVolume, mkfs_options: str, *, zeroed: bool) -> Superblock:
        device, facts = volume.device.path, volume.facts
        try:
            options = mkfs.validate_options(facts.fs_type, mkfs_options)
        except ValueError as error:
            raise InvalidRequest("katacsi.io/mkfs-options", str(error)) from error
        mkfs.make(
            device,
            facts.fs_type,
            facts.fs_uuid,
            options=options,
            zeroed=zeroed,
            timeout_s=self._settings.timeouts.mkfs,
        )
        made = superblock.read(device)
        if made is None or (made.fs_type, made.uuid) != (facts.fs_type, facts.fs_uuid):
            raise HostError(
                f"{volume}: mkfs.{facts.fs_type} succeeded, but {device} does not show its filesystem"
            )
        self._metrics.formats.labels(facts.fs_type).inc()
        log.info("volume formatted", filesystem=facts.fs_type, uuid=facts.fs_uuid, device=str(device))
        return made

    async def _verified(self, volume: NodeVolume) -> Superblock:
        """Read the filesystem back; give a copy an identity of its own where that is allowed."""
        found = await off_loop(self._read_back, volume)
        if volume.facts.inherited_uuid:
            await self._renew_uuid(volume)
        return found

    def _read_back(self, volume: NodeVolume) -> Superblock:
        device, facts = volume.device.path, volume.facts
        found = superblock.read(device)
        if found is None:
            other = probe.signature(device, timeout_s=self._settings.timeouts.probe)
            if other is None:
                raise DataLossAlarm(
                    f"{volume}: was formatted as {facts.fs_type} {facts.fs_uuid}, but {device} shows no "
                    "filesystem; nothing was written. Restore it from a snapshot or a backup"
                )
            raise Precondition(
                f"{volume}: holds {other.describe()} instead of {facts.fs_type}; nothing was written"
            )
        if found.fs_type != facts.fs_type:
            raise Precondition(
                f"{volume}: holds {found.fs_type} instead of {facts.fs_type}: its workload made another "
                "filesystem; nothing was written"
            )
        return found

    async def _renew_uuid(self, volume: NodeVolume) -> None:
        fresh = str(uuid.uuid4())
        may_mount = self._settings.may_mount(guest_written=volume.facts.guest_written)
        try:
            await off_loop(uuids.renew, volume.device.path, volume.facts.fs_type, fresh, may_mount=may_mount)
        except Unsupported as kept:
            # xfs always, and what only a mount could bring in order; it is mounted `nouuid`.
            log.info("a copy keeps the UUID of its source", reason=kept.message)
            return
        await volume.settle(fs_uuid=fresh, inherited_uuid=False)


def _was_mounted(device: Path) -> bool:
    """Whether somebody used the filesystem: what a torn mkfs left nobody could."""
    try:
        made = superblock.read(device)
    except HostError:
        return False  # a torn one need not make sense
    return made is not None and made.was_mounted
