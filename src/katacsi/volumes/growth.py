"""Making a filesystem as large as its device, wherever that is possible without a guest's help.

A fact goes before each growth in userspace and is taken back after a check: tools that are killed midway
leave what nobody may mount, and the fact is what lets the next call mend it by itself. A filesystem that
stays smaller than its device is no failure; one that is not proven sound is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.errors import KatacsiError, NotProvenSound
from katacsi.host import block, fsck, growth, mount, superblock
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.host.superblock import Superblock
    from katacsi.settings import Settings
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)


class Growth:
    """Grows filesystems; which way depends on who has the device."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.timeouts.check

    async def finish(self, volume: NodeVolume) -> None:
        """Mend what a growth that was cut off has left, before anybody looks at the filesystem.

        Nobody holds the device, and nobody has mounted it since: the fact kept everybody away.

        Raises:
            NotProvenSound: it could not be mended, or a person has to look at it.
        """
        if volume.facts.growing:
            await off_loop(fsck.repair_offline, volume.device.path, timeout_s=self._timeout_s)
            log.info("a growth that was cut off is mended", device=str(volume.device.path))
            await volume.settle(growing=0)

    @tracing.phase("grow filesystem")
    async def offline(self, volume: NodeVolume, found: Superblock | None = None) -> None:
        """Grow an ext4 that nobody has mounted, in userspace; other filesystems grow when they are mounted.

        Raises:
            NotProvenSound: nobody may mount it as it is.
            HostError: it did not grow, and is as sound as before.
        """
        await self.finish(volume)
        found = found or await off_loop(superblock.read, volume.device.path)
        if found is None:
            return
        if growth.fills(found, volume.device.size_bytes):
            await volume.settle(pending_size=0)
        elif found.fs_type == "ext4" and not await off_loop(_mounts, volume):
            await self._grow(volume, found.fs_type)

    async def _grow(self, volume: NodeVolume, fs_type: str) -> None:
        path = volume.device.path
        await off_loop(fsck.check_offline, path, fs_type, timeout_s=self._timeout_s)
        await volume.settle(growing=volume.device.size_bytes)
        try:
            await off_loop(growth.grow_offline, path, fs_type, timeout_s=self._timeout_s)
        except NotProvenSound:
            raise
        except KatacsiError:
            await volume.settle(growing=0)
            raise
        _tell(volume, fs_type)
        await volume.settle(growing=0, pending_size=0)

    async def before_publish(self, volume: NodeVolume, found: Superblock | None = None) -> None:
        """Do as `offline`; a filesystem that stays smaller than its device is no failure here.

        Raises:
            NotProvenSound: nobody may mount it as it is.
        """
        try:
            await self.offline(volume, found)
        except NotProvenSound:
            raise
        except KatacsiError as error:
            _tell_smaller(volume, error)

    before_mount = before_publish

    async def after_mount(self, volume: NodeVolume, mount_point: Path) -> None:
        """Grow what only grows mounted; a filesystem that stays smaller than its device is no failure."""
        try:
            await self.mounted(volume, mount_point)
        except KatacsiError as error:
            _tell_smaller(volume, error)

    @tracing.phase("grow filesystem")
    async def by_mount(self, volume: NodeVolume, mount_point: Path) -> None:
        """Grow any filesystem that nobody has mounted; xfs and btrfs by mounting it here for the moment.

        The caller has made sure that the host's kernel may mount it.

        Raises:
            HostError: as `offline` and `mounted`.
        """
        await self.offline(volume)
        found = await off_loop(superblock.read, volume.device.path)
        if found is None or growth.fills(found, volume.device.size_bytes):
            return
        try:
            await off_loop(_mount_for_growth, volume.device.path, mount_point, found.fs_type)
            await self.mounted(volume, mount_point)
        finally:
            await off_loop(mount.unmount, mount_point)

    @tracing.phase("grow filesystem")
    async def mounted(self, volume: NodeVolume, mount_point: Path) -> None:
        """Grow a filesystem that the host has mounted.

        Raises:
            Precondition: it cannot be grown while it is mounted; the message says what the kernel wants.
            HostError: it failed, and may not fail again.
        """
        found = await off_loop(superblock.read, volume.device.path)
        if found is None or not growth.fills(found, volume.device.size_bytes):
            fs_type = found.fs_type if found else volume.facts.fs_type
            await off_loop(growth.grow_mounted, volume.device.path, mount_point, fs_type)
            _tell(volume, fs_type)
        await volume.settle(pending_size=0)


async def is_full_size(volume: NodeVolume) -> bool:
    """Whether the filesystem that is on the device fills it."""
    found = await off_loop(superblock.read, volume.device.path)
    return found is not None and growth.fills(found, volume.device.size_bytes)


def _mounts(volume: NodeVolume) -> list[mount.Mount]:
    return mount.of_device(block.device_number(volume.device.path))


def _mount_for_growth(device: Path, mount_point: Path, fs_type: str) -> None:
    mount.ensure_target_directory(mount_point)
    flags = ("nosuid", "nodev", "noexec", *(("nouuid",) if fs_type == "xfs" else ()))
    mount.mount_filesystem(device, mount_point, fs_type, flags)


def _tell(volume: NodeVolume, fs_type: str) -> None:
    device = volume.device
    log.info("filesystem grown", filesystem=fs_type, device=str(device.path), size_bytes=device.size_bytes)


def _tell_smaller(volume: NodeVolume, error: KatacsiError) -> None:
    device = str(volume.device.path)
    log.warning("filesystem stays smaller than its device", error=error.message, device=device)
