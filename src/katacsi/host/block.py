# ruff: noqa: PTH116 -- ioctls need descriptors and O_ flags; pathlib has none
"""Block devices: size, read-only flag, and zeroes.

Source of the ioctl numbers: <linux/fs.h>.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux, processor

if TYPE_CHECKING:
    from pathlib import Path

_BLKROSET = 0x125D
_BLKROGET = 0x125E
_BLKFLSBUF = 0x1261
_BLKZEROOUT = 0x127F
_BLKGETSIZE64 = 0x80081272

_MIB = 1 << 20
#: Bytes per read when looking for zeroes: large enough for a disk, small enough to keep one per thread.
_CHUNK_BYTES = 256 << 10

_buffers = threading.local()


def size_bytes(path: Path) -> int:
    """Give a block device's size in bytes."""
    fd = _opened(path, os.O_RDONLY)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)), "little")
    except OSError as error:
        raise _linux.failure(f"ask {path} for its size", error) from error
    finally:
        os.close(fd)


def set_read_only(path: Path, flag: bool) -> None:
    """Make the kernel refuse, or allow, writes to a device, for all who open it from now on."""
    fd = _opened(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKROSET, struct.pack("=i", flag))
    except OSError as error:
        raise _linux.failure(f"set {path} read-{'only' if flag else 'write'}", error) from error
    finally:
        os.close(fd)


def is_read_only(path: Path) -> bool:
    """Whether the kernel refuses writes to a device."""
    fd = _opened(path, os.O_RDONLY)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _BLKROGET, bytes(4)), "little") != 0
    except OSError as error:
        raise _linux.failure(f"ask {path} whether it is read-only", error) from error
    finally:
        os.close(fd)


def device_number(path: Path) -> tuple[int, int]:
    """Give the (major, minor) of a block device node; a path that is none, or absent, is a HostError."""
    number = number_at(path)
    if number is None:
        raise errors.HostError(f"{path} is not a block device")
    return number


def number_at(path: Path) -> tuple[int, int] | None:
    """Give the (major, minor) of a block device node; None: there is nothing, or something else.

    Raises:
        HostError: nobody can look there.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise _linux.failure(f"look at {path}", error) from error
    return (os.major(status.st_rdev), os.minor(status.st_rdev)) if stat.S_ISBLK(status.st_mode) else None


# -- contents ------------------------------------------------------------------------------------------


def ends_are_zero(path: Path, length: int = _MIB) -> bool:
    """Whether the first and the last `length` bytes of a device read as zero, from the medium itself.

    Raises:
        VolumeInUse: the device is mounted or claimed.
        HostError: any byte cannot be read; a device that cannot be read is not a blank one.
    """
    # O_DIRECT: pages that an earlier holder left in the cache are no statement about a disk in the network.
    fd = _opened(path, os.O_RDONLY | os.O_EXCL | os.O_DIRECT)
    try:
        size = int.from_bytes(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)), "little")
        if size == 0:
            raise errors.HostError(f"read {path}: the device has no size; is its medium there?")
        if size <= 2 * length:
            return _is_zero(fd, path, 0, size)
        return _is_zero(fd, path, 0, length) and _is_zero(fd, path, size - length, size)
    except OSError as error:
        raise _linux.failure(f"read {path}", error) from error
    finally:
        os.close(fd)


def reads_as_zero(path: Path, offset: int, length: int) -> bool:
    """Whether these bytes of a device read as zero, from the medium itself; callers go in steps.

    Offset and length in bytes; what lies beyond the end of the device is not asked for.

    Raises:
        VolumeInUse: the device is mounted or claimed.
        HostError: any byte cannot be read; a device that cannot be read is not a blank one.
    """
    fd = _opened(path, os.O_RDONLY | os.O_EXCL | os.O_DIRECT)
    try:
        size = int.from_bytes(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)), "little")
        with processor.anywhere():
            return _is_zero(fd, path, offset, min(offset + length, size))
    except OSError as error:
        raise _linux.failure(f"read {path}", error) from error
    finally:
        os.close(fd)


def _is_zero(fd: int, path: Path, start: int, end: int) -> bool:
    area, array = _buffer()
    view = memoryview(area)
    position = start
    while position < end:
        got = os.preadv(fd, [view[: min(_CHUNK_BYTES, end - position)]], position)
        if got == 0:
            raise errors.HostError(f"read {path}: it ends at byte {position}, before its size")
        if not _linux.is_zero(array, got):
            return False
        position += got
    return True


def _buffer() -> tuple[mmap.mmap, ctypes.Array[ctypes.c_char]]:
    """Give this thread's buffer, aligned to a page as O_DIRECT wants it; made once, as pages cost time."""
    try:
        return _buffers.pair  # type: ignore[no-any-return]  # threading.local has no types
    except AttributeError:
        area = mmap.mmap(-1, _CHUNK_BYTES)
        _buffers.pair = (area, (ctypes.c_char * _CHUNK_BYTES).from_buffer(area))
        return _buffers.pair  # type: ignore[no-any-return]  # threading.local has no types


def zero_out(path: Path, offset: int, length: int) -> None:
    """Make bytes of a device read as zero, by the disk's own command where it has one (BLKZEROOUT).

    Offset and length in bytes, multiples of the sector size. It blocks until done: callers go in steps.

    Raises:
        VolumeInUse: the device is mounted or claimed.
    """
    fd = _opened(path, os.O_RDWR | os.O_EXCL)
    try:
        with processor.anywhere():
            fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", offset, length))
    except OSError as error:
        raise _linux.failure(f"write zeroes to {path} at {offset}", error) from error
    finally:
        os.close(fd)


def drop_caches(path: Path) -> None:
    """Write back and forget what the page cache holds of a device (BLKFLSBUF)."""
    fd = _opened(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    except OSError as error:
        raise _linux.failure(f"drop the caches of {path}", error) from error
    finally:
        os.close(fd)


def _opened(path: Path, flags: int) -> int:
    try:
        # O_NONBLOCK only for FIFOs and drives with removable media; a block device ignores it otherwise.
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.VolumeInUse(f"{path} is mounted or claimed by another device") from error
        raise _linux.failure(f"open {path}", error) from error
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise errors.HostError(f"{path} is not a block device")
    return fd
