"""Making a filesystem as large as its device, wherever that is possible without a guest's help."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError, VolumeInUse
from katacsi.host import block, growth, holders, mount, superblock
from katacsi.host.offloop import off_loop
from katacsi.volumes.formatting import set_facts

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Backend, Device, Volume
    from katacsi.host.superblock import Superblock
    from katacsi.settings import Settings

log = structlog.get_logger(__name__)


class Growing:
    """Grows filesystems; which way depends on who has the device."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.timeouts.check

    async def unmounted(
        self, backend: Backend, volume: Volume, device: Device, found: Superblock | None = None
    ) -> Volume:
        """Grow an ext4 that nobody has mounted, in userspace; other filesystems grow when they are mounted.

        Raises:
            HostError: the check or the growth failed; the filesystem is as usable as before.
        """
        found = found or await off_loop(superblock.read, device.path)
        if found is None:
            return volume
        if growth.fills(found, device.size_bytes):
            return await self._settled(backend, volume)
        if found.fs_type != "ext4":
            return volume
        mounts = await off_loop(mount.of_device, block.device_number(device.path))
        if mounts:
            return volume
        await off_loop(growth.grow_offline, device.path, found.fs_type, timeout_s=self._timeout_s)
        log.info(
            "filesystem grown",
            filesystem=found.fs_type,
            device=str(device.path),
            size_bytes=device.size_bytes,
        )
        return await self._settled(backend, volume)

    async def tolerant(
        self, backend: Backend, volume: Volume, device: Device, found: Superblock | None = None
    ) -> Volume:
        """Do as `unmounted` unless somebody has the device; a filesystem that stays smaller is no failure.

        A guest that outlived its pod may hold the device at a stage or publish.
        """
        try:
            found = found or await off_loop(superblock.read, device.path)
            if found is not None and not growth.fills(found, device.size_bytes):
                await off_loop(_require_unheld, device.path)
            return await self.unmounted(backend, volume, device, found)
        except KatacsiError as error:
            log.warning(
                "filesystem stays smaller than its device", error=error.message, device=str(device.path)
            )
            return volume

    async def by_mount(self, backend: Backend, volume: Volume, device: Device, mount_point: Path) -> Volume:
        """Grow any filesystem that nobody has mounted; xfs and btrfs by mounting it here for the moment.

        The caller has made sure that the host's kernel may mount it.

        Raises:
            HostError: as `unmounted` and `mounted`.
        """
        volume = await self.unmounted(backend, volume, device)
        found = await off_loop(superblock.read, device.path)
        if found is None or growth.fills(found, device.size_bytes):
            return volume
        try:
            await off_loop(_mount_for_growth, device.path, mount_point, found.fs_type)
            return await self.mounted(backend, volume, device, mount_point)
        finally:
            await off_loop(mount.unmount, mount_point)

    async def mounted(self, backend: Backend, volume: Volume, device: Device, mount_point: Path) -> Volume:
        """Grow a filesystem that the host has mounted.

        Raises:
            HostError: it could not be grown; the message says what the kernel wants.
        """
        found = await off_loop(superblock.read, device.path)
        if found is None or not growth.fills(found, device.size_bytes):
            fs_type = found.fs_type if found else volume.facts.fs_type
            await off_loop(growth.grow_mounted, device.path, mount_point, fs_type)
            log.info(
                "filesystem grown",
                filesystem=fs_type,
                mount_point=str(mount_point),
                size_bytes=device.size_bytes,
            )
        return await self._settled(backend, volume)

    async def _settled(self, backend: Backend, volume: Volume) -> Volume:
        return await set_facts(backend, volume, volume.facts.with_(pending_size=0))


def _require_unheld(device: Path) -> None:
    if held := holders.lasting(device):
        raise VolumeInUse(
            f"{device}: is held by {held[0]}, and its filesystem is not ours to change meanwhile"
        )


def _mount_for_growth(device: Path, mount_point: Path, fs_type: str) -> None:
    mount.ensure_target_directory(mount_point)
    flags = ("nosuid", "nodev", "noexec", *(("nouuid",) if fs_type == "xfs" else ()))
    mount.mount_filesystem(device, mount_point, fs_type, flags)
