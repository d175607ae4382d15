# ruff: noqa: PTH116 -- ioctls need descriptors
"""Device-mapper's own word on a device: whether it is there, who has it open, how its targets are.

Asked of the kernel, not of a tool: it costs no process, and a node that somebody made proves nothing.

Source of the numbers: <linux/dm-ioctl.h>.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from katacsi.errors import HostError
from katacsi.host import _linux

CONTROL = Path("/dev/mapper/control")

#: `struct dm_ioctl`, 312 bytes: version, data_size, data_start, target_count, open_count, flags, event_nr,
#: padding, dev, name, uuid.
_HEADER: Final = struct.Struct("=3IIIIiIIIQ128s129s7x")
#: `struct dm_target_spec`: sector_start, length, status, next, target_type.
_TARGET: Final = struct.Struct("=QQiI16s")
_VERSION: Final = (4, 0, 0)
#: _IOWR(0xfd, 7, struct dm_ioctl), and 12.
_DM_DEV_STATUS: Final = 0xC138FD07
_DM_TABLE_STATUS: Final = 0xC138FD0C
_SUSPENDED: Final = 1 << 1
_BUFFER_FULL: Final = 1 << 8
#: A status that waits for the device to write something back would hang with it.
_NO_FLUSH: Final = 1 << 11
_SECTOR: Final = 512
_ROOM: Final = (16 << 10, 1 << 20)

_MAPPER: Final = Path("/dev/mapper")


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a device's table: its type, its size, and what it says of itself."""

    type: str
    size_bytes: int
    status: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """A device that device-mapper has."""

    name: str
    number: tuple[int, int]
    open_count: int
    suspended: bool
    targets: tuple[Target, ...]

    @property
    def size_bytes(self) -> int:
        """The size of the device."""
        return sum(target.size_bytes for target in self.targets)


def find(uuid: str) -> Mapped | None:
    """Look a device up by its UUID; None is the kernel's word that there is none.

    Raises:
        HostError: device-mapper cannot be asked.
    """
    control = opened()
    try:
        buffer = asked(control, _DM_TABLE_STATUS, uuid=uuid)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise _linux.failure(f"ask device-mapper for {uuid}", error) from error
    finally:
        os.close(control)
    return _mapped(_HEADER.unpack_from(buffer), buffer)


# -- for `dmrelease` -----------------------------------------------------------------------------------


def opened() -> int:
    """Give a descriptor of device-mapper's door.

    Raises:
        HostError: it cannot be opened.
    """
    try:
        return os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{CONTROL}: device-mapper cannot be asked ({error.strerror}); modprobe dm-mod, and give "
            "katacsi's container the host's /dev"
        ) from error


def request(*, name: str = "", uuid: str = "", room: int = _ROOM[0]) -> bytearray:
    """Give a `struct dm_ioctl`, with room for an answer of so many bytes."""
    buffer = bytearray(room)
    _HEADER.pack_into(
        buffer, 0, *_VERSION, room, _HEADER.size, 0, 0, _NO_FLUSH, 0, 0, 0, name.encode(), uuid.encode()
    )
    return buffer


def asked(control: int, number: int, *, name: str = "", uuid: str = "") -> bytearray:
    """Give the answer to an ioctl; raises OSError, ENXIO where there is no such device."""
    for room in _ROOM:
        buffer = request(name=name, uuid=uuid, room=room)
        fcntl.ioctl(control, number, buffer)
        if not _HEADER.unpack_from(buffer)[7] & _BUFFER_FULL:
            return buffer
    raise HostError(f"device-mapper has more to say about {name or uuid} than fits in {_ROOM[-1]} bytes")


def data_start(buffer: bytearray) -> int:
    """Say where the data of an answer begins."""
    return int(_HEADER.unpack_from(buffer)[4])


def uuid_of(control: int, name: str) -> str | None:
    """Give the UUID of a device, by name; None: it is gone."""
    try:
        buffer = asked(control, _DM_DEV_STATUS, name=name)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    return bytes(_HEADER.unpack_from(buffer)[12]).split(b"\0", 1)[0].decode(errors="replace")


# -- devices -------------------------------------------------------------------------------------------


def _mapped(header: tuple[int | bytes, ...], buffer: bytearray) -> Mapped:
    start, count, open_count, flags, device = (int(header[index]) for index in (4, 5, 6, 7, 10))
    targets = []
    position = start
    for _ in range(count):
        _, length, _, following, kind = _TARGET.unpack_from(buffer, position)
        text = bytes(buffer[position + _TARGET.size :]).split(b"\0", 1)[0].decode(errors="replace")
        targets.append(Target(kind.rstrip(b"\0").decode(), length * _SECTOR, text.strip()))
        position = start + following
    return Mapped(
        name=bytes(header[11]).split(b"\0", 1)[0].decode(),
        number=(os.major(device), os.minor(device)),
        open_count=open_count,
        suspended=bool(flags & _SUSPENDED),
        targets=tuple(targets),
    )


def node(device: Mapped, timeout_s: float) -> Path:
    """Give the path of a device's node, proven by its number; wait for udev to make it if need be.

    Raises:
        HostError: none appeared.
    """
    # The name is the same after each activation; the kernel's own is not, but is there without udev.
    candidates = [_MAPPER / device.name, Path(f"/dev/dm-{device.number[1]}")]
    deadline = time.monotonic() + timeout_s
    while True:
        if is_node(candidates[0], device.number):
            return candidates[0]
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    if is_node(candidates[1], device.number):
        return candidates[1]
    raise HostError(
        f"{candidates[0]}: is not device {device.number[0]}:{device.number[1]} (nor is {candidates[1]}); "
        "katacsi's container needs the host's /dev, and the host a udevd that works"
    )


def is_node(path: Path, number: tuple[int, int]) -> bool:
    """Whether a path is the node of the block device with this number."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISBLK(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) == number
