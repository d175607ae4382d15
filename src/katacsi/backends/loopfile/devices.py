"""Loop devices of a pool's volumes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from katacsi.backends.api import Device
from katacsi.backends.loopfile import labels
from katacsi.backends.loopfile.settings import SECTOR_SIZE, Allocation
from katacsi.errors import HostError, Precondition
from katacsi.host import block, directories, files, loop, loopdevices, looprelease, sizedfiles
from katacsi.model import MIB, Condition, format_size

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.loopfile.layout import ObjectFolder
    from katacsi.backends.loopfile.pool import LoopfilePool
    from katacsi.backends.loopfile.settings import LoopfileSettings
    from katacsi.backends.loopfile.volumes import LoopfileVolumes
    from katacsi.model import VolumeId

#: A pool with less room than this part of its filesystem is about to fail writes to sparse volumes.
_LITTLE_ROOM = 100

_PROBE = ".probe-direct-io"


class LoopfileDevices:
    """Attaches volumes and takes them away again."""

    def __init__(self, settings: LoopfileSettings, pool: LoopfilePool, volumes: LoopfileVolumes) -> None:
        self._reserve = settings.reserve
        self._pool = pool
        self._folder: ObjectFolder = pool.volumes
        self._volumes = volumes
        #: Taken for granted until an attachment fails.
        self._direct_io = True
        self._probing = threading.Lock()

    def attach(self, name: str) -> Device:
        """Give a volume its loop device, the same however often."""
        record = self._volumes.require_durable(name)
        disk = self._folder.disk(name)
        # What a thick volume discards would be taken from the pool again when it is written.
        discard = record.allocation is not Allocation.THICK
        try:
            device = self._attached(disk, self._pool.volume_id(name), discard=discard)
        except (HostError, Precondition):
            if not self._direct_io or self._can_direct_io():
                raise
            device = self._attached(disk, self._pool.volume_id(name), discard=discard)
        return Device(
            device.path,
            device.size_bytes,
            new=device.new,
            # Nobody can have written to a device that is new, so the file says all.
            blank=device.new and not sizedfiles.has_data(disk),
            volume=self._volumes.shown(record),
        )

    def attached(self, name: str) -> Device | None:
        """Say which loop device a volume has."""
        disk = self._folder.disk(name)
        if disk.exists():
            device = loopdevices.attached_to(disk)
            return None if device is None else Device(device.path, device.size_bytes)
        # In a pool that is away, every file looks absent.
        self._pool.verify()
        # A file is removed only after its device; but somebody may have removed it by hand.
        for found in self._found(self._pool.volume_id(name)):
            return Device(found.path, block.size_bytes(found.path))
        return None

    def detach(self, name: str) -> None:
        """Take a volume's loop device away, proven."""
        disk = self._folder.disk(name)
        if disk.exists():
            loop.ensure_detached(disk)
        else:
            self._pool.verify()
            self.release(self._pool.volume_id(name), None)

    def release(self, volume_id: VolumeId, remembered: Path | None) -> None:
        """Take a volume's loop device away, proven, without looking into the pool."""
        for found in self._found(volume_id, remembered):
            looprelease.release(found)

    def _found(self, volume_id: VolumeId, remembered: Path | None = None) -> list[looprelease.Found]:
        """Give the devices that are provably a volume's, by what the kernel has of them."""
        disk = self._folder.disk(volume_id.name)
        return [
            found for found in looprelease.every() if labels.is_of_volume(found, disk, volume_id, remembered)
        ]

    def _attached(self, disk: Path, volume_id: VolumeId, *, discard: bool) -> loopdevices.LoopDevice:
        return loop.attach(
            disk,
            sector_size=SECTOR_SIZE,
            direct_io=self._direct_io,
            discard=discard,
            label=labels.label(self._pool.place, volume_id),
        )

    def refresh(self, name: str) -> int:
        """Make a loop device as large as its file."""
        device = loopdevices.attached_to(self._folder.disk(name))
        if device is None:
            raise Precondition(f"volume {name} of pool {self._pool.name!r}: is not attached; attach it first")
        return loop.set_capacity(device.path)

    def is_blank(self, name: str) -> bool | None:
        """Prove that a volume reads as zero: its file has no data at all; else only a probe can tell."""
        disk = self._folder.disk(name)
        if not disk.exists():
            self._volumes.require(name)
        if (device := loopdevices.attached_to(disk)) is not None:
            # What was written to the device may still be in the device's cache, and not in the file.
            block.drop_caches(device.path)
        # A file with data may hold nothing but zeros, so this disproves nothing.
        return None if sizedfiles.has_data(disk) else True

    def full(self, name: str) -> str:
        """Say that a sparse volume finds no room for what is written to it; empty: it does, or needs none."""
        record = self._volumes.require(name)
        return "" if record.allocation is Allocation.THICK else self._pool.full()

    def condition(self, name: str, refusal: str) -> Condition:
        """Examine a volume's file, its device and the pool; `refusal` says why the pool takes no writes."""
        size_bytes, condition = self._volumes.measure(self._volumes.require(name))
        if condition.abnormal:
            return condition
        if refusal:
            return Condition(abnormal=True, message=refusal)
        room = directories.room(self._pool.directory)
        if room.available_bytes <= max(self._reserve, room.total_bytes // _LITTLE_ROOM):
            fact = (
                f"pool {self._pool.name!r} has {format_size(room.available_bytes)} left; writes may soon fail"
            )
            return Condition(abnormal=True, message=fact)
        device = loopdevices.attached_to(self._folder.disk(name))
        return condition if device is None else _as_special(device, size_bytes)

    def clear_probe(self) -> None:
        """Remove the file and the device of a probe for direct I/O that a crash cut short."""
        probe = self._pool.directory / _PROBE
        if probe.exists():
            # In this order: of a device whose file is gone nobody would know any more.
            loop.ensure_detached(probe)
            files.ensure_absent(probe)

    def _can_direct_io(self) -> bool:
        """Find out, with a file of its own, whether the pool's filesystem has direct I/O.

        Not with a volume: an attachment can fail for many reasons, and a volume that was attached buffered
        for another one would stay so. Asked only after a failure, so hardly ever.
        """
        with self._probing:
            if self._direct_io:
                self.clear_probe()
                probe = self._pool.directory / _PROBE
                sizedfiles.create_sized(probe, MIB, thick=False)
                try:
                    # Where no loop device can be had at all, nothing is learnt about direct I/O.
                    self._direct_io = _attachable(probe, direct_io=True) or not _attachable(
                        probe, direct_io=False
                    )
                finally:
                    self.clear_probe()
            return self._direct_io


def _attachable(file: Path, *, direct_io: bool) -> bool:
    try:
        loop.attach(file, sector_size=SECTOR_SIZE, direct_io=direct_io)
    except HostError:
        return False
    loop.ensure_detached(file)
    return True


def _as_special(device: loopdevices.LoopDevice, size_bytes: int) -> Condition:
    """Say what is special about an attached device, which is not ill for it."""
    if device.size_bytes < size_bytes:
        return Condition(
            message=f"{device.path} shows {device.size_bytes} bytes of {size_bytes} until refreshed"
        )
    if not device.direct_io:
        return Condition(
            message=f"{device.path} is buffered: direct I/O does not work on the pool's filesystem"
        )
    return Condition()
