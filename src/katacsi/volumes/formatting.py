"""Format once: mkfs runs only on a device that is proven blank, and only until facts say "formatted".

The order makes every crash decidable: the facts name the filesystem and its UUID before mkfs may begin, and
say "formatted" only after the result was read back. Nothing publishes a volume before that, so whatever a
torn mkfs left behind is ours to overwrite, and nothing else ever is.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import Facts, FormatState
from katacsi.errors import DataLossAlarm, ForeignContent, HostError, InvalidRequest, Precondition, Unsupported
from katacsi.host import block, mkfs, probe, superblock, uuids
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Backend, Device, Volume
    from katacsi.host.superblock import Superblock
    from katacsi.metrics import Metrics
    from katacsi.settings import Settings

log = structlog.get_logger(__name__)

_NO_UUID = ("", "00000000-0000-0000-0000-000000000000")


class Formatter:
    """Gives volumes their filesystem."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        # mkfs is processor and disk work; more of them at once than this only slows each down.
        self._room = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    async def ensure(
        self,
        backend: Backend,
        volume: Volume,
        device: Device,
        fs_type: str,
        mkfs_options: str,
        *,
        for_guests: bool = False,
    ) -> tuple[Volume, Superblock]:
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
                f"volume {volume.id}: holds {facts.fs_type}, and {fs_type} was asked for; ask for "
                f"{facts.fs_type}, or "
                "make a new volume"
            )
        if facts.format is FormatState.FORMATTED:
            return await self._verified(backend, volume, device)
        zeroed = False
        if facts.format is FormatState.UNFORMATTED:
            zeroed = await self._prove_blank(backend, volume, device)
            begun = facts.with_(format=FormatState.FORMATTING, fs_type=fs_type, fs_uuid=str(uuid.uuid4()))
            volume = await set_facts(backend, volume, begun)
        else:
            await self._prove_torn(volume, device)
        async with self._room:
            made = await self._make(volume, device, mkfs_options, zeroed=zeroed)
        facts = volume.facts.with_(
            format=FormatState.FORMATTED,
            guest_written=volume.facts.guest_written or (for_guests and made.fs_type == "ext4"),
        )
        volume = await set_facts(backend, volume, facts)
        return volume, made

    async def _prove_blank(self, backend: Backend, volume: Volume, device: Device) -> bool:
        """Prove that nothing would be overwritten; tell whether the whole device is known to read as zero."""
        if await backend.is_blank(volume.id):
            return True
        found = await off_loop(probe.signature, device.path, timeout_s=self._settings.timeouts.probe)
        if found is not None:
            raise ForeignContent(
                f"volume {volume.id}: never formatted by katacsi, but {device.path} holds "
                f"{found.describe()}; "
                "nothing was written. Save what is there, then delete the volume and make a new one"
            )
        if not await off_loop(block.ends_are_zero, device.path):
            raise ForeignContent(
                f"volume {volume.id}: never formatted by katacsi, but {device.path} does not read as zero; "
                "nothing was "
                "written. Save what is there, then delete the volume and make a new one"
            )
        return False

    async def _prove_torn(self, volume: Volume, device: Device) -> None:
        """Make sure that what is there is a piece of the mkfs that the facts name, or nothing."""
        found = await off_loop(probe.signature, device.path, timeout_s=self._settings.timeouts.probe)
        facts = volume.facts
        if found is None:
            return
        if found.type != facts.fs_type or found.uuid not in (facts.fs_uuid, *_NO_UUID):
            raise ForeignContent(
                f"volume {volume.id}: katacsi was making {facts.fs_type} {facts.fs_uuid} on it, but "
                f"{device.path} holds "
                f"{found.describe()}; nothing was written"
            )
        if await off_loop(_was_mounted, device.path):
            raise DataLossAlarm(
                f"volume {volume.id}: its facts say that {facts.fs_type} {facts.fs_uuid} was being made, but "
                f"{device.path} shows that it was mounted since; nothing was written. The pool lost newer "
                "facts: save what is on the device, and check the pool's disk"
            )

    async def _make(self, volume: Volume, device: Device, mkfs_options: str, *, zeroed: bool) -> Superblock:
        facts = volume.facts
        try:
            options = mkfs.validate_options(facts.fs_type, mkfs_options)
        except ValueError as error:
            raise InvalidRequest("katacsi.io/mkfs-options", str(error)) from error
        await off_loop(
            mkfs.make,
            device.path,
            facts.fs_type,
            facts.fs_uuid,
            options=options,
            zeroed=zeroed,
            timeout_s=self._settings.timeouts.mkfs,
        )
        made = await off_loop(superblock.read, device.path)
        if made is None or (made.fs_type, made.uuid) != (facts.fs_type, facts.fs_uuid):
            raise HostError(
                f"volume {volume.id}: mkfs.{facts.fs_type} succeeded, but {device.path} does not show its "
                "filesystem"
            )
        self._metrics.formats.labels(facts.fs_type).inc()
        log.info("volume formatted", filesystem=facts.fs_type, uuid=facts.fs_uuid, device=str(device.path))
        return made

    async def _verified(self, backend: Backend, volume: Volume, device: Device) -> tuple[Volume, Superblock]:
        """Read the filesystem back; give a copy an identity of its own where that is allowed."""
        facts = volume.facts
        found = await off_loop(superblock.read, device.path)
        if found is None:
            other = await off_loop(probe.signature, device.path, timeout_s=self._settings.timeouts.probe)
            if other is None:
                raise DataLossAlarm(
                    f"volume {volume.id}: was formatted as {facts.fs_type} {facts.fs_uuid}, but "
                    f"{device.path} shows no "
                    "filesystem; nothing was written. Restore it from a snapshot or a backup"
                )
            raise Precondition(
                f"volume {volume.id}: holds {other.describe()} instead of {facts.fs_type}; nothing was "
                "written"
            )
        if found.fs_type != facts.fs_type:
            raise Precondition(
                f"volume {volume.id}: holds {found.fs_type} instead of {facts.fs_type}: its workload made "
                "another "
                "filesystem; nothing was written"
            )
        if facts.inherited_uuid:
            volume = await self._renew_uuid(backend, volume, device)
        return volume, found

    async def _renew_uuid(self, backend: Backend, volume: Volume, device: Device) -> Volume:
        fresh = str(uuid.uuid4())
        try:
            await off_loop(
                uuids.renew, device.path, volume.facts.fs_type, fresh, may_mount=self.may_mount(volume.facts)
            )
        except Unsupported as kept:
            # xfs always, and what only a mount could bring in order; it is mounted `nouuid`.
            log.info("a copy keeps the UUID of its source", reason=kept.message)
            return volume
        return await set_facts(backend, volume, volume.facts.with_(fs_uuid=fresh, inherited_uuid=False))

    def may_mount(self, facts: Facts) -> bool:
        """Whether the host kernel may mount this filesystem, or its tools may take it for sound."""
        return not facts.guest_written or self._settings.guest_filesystems == "allow"


def _was_mounted(device: Path) -> bool:
    """Whether somebody used the filesystem: what a torn mkfs left nobody could."""
    try:
        made = superblock.read(device)
    except HostError:
        return False  # a torn one need not make sense
    return made is not None and made.was_mounted


async def set_facts(backend: Backend, volume: Volume, facts: Facts) -> Volume:
    """Store facts durably, and give the volume with them."""
    if facts == volume.facts:
        return volume
    await backend.compare_and_set_facts(volume.id, volume.facts, facts)
    return replace(volume, facts=facts)
