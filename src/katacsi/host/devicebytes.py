"""The bytes of block devices in bulk: copied, discarded, one step of bounded length at a time.

Source of the ioctl number: <linux/fs.h>.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, VolumeInUse
from katacsi.host import _linux, processor

if TYPE_CHECKING:
    from pathlib import Path

_BLKDISCARD: Final = 0x1277
_BLKZEROOUT: Final = 0x127F
_BUFFER_BYTES: Final = 4 << 20

_buffers = threading.local()


def discard(path: Path, offset: int, length: int) -> bool:
    """Tell a disk that nobody needs these bytes any more; False: it cannot be told such things.

    Raises:
        VolumeInUse: the device is mounted or claimed.
    """
    fd = _opened(path, os.O_RDWR | os.O_EXCL)
    try:
        with processor.anywhere():
            fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, length))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise _linux.failure(f"discard bytes of {path} at {offset}", error) from error
    finally:
        os.close(fd)
    return True


def copy(source: Path, target: Path, offset: int, length: int, *, skip_zeros: bool = False) -> None:
    """Make bytes of one device those of another, durably; both past the page cache.

    Offset and length in bytes, multiples of 4096. Zeros are not transferred where the disk can make them
    itself; with `skip_zeros` they are not written at all, for targets that are blank.

    Raises:
        VolumeInUse: the target is mounted or claimed.
        HostError: a byte could not be read or written.
    """
    reading = _opened(source, os.O_RDONLY | os.O_DIRECT)
    try:
        writing = _opened(target, os.O_RDWR | os.O_EXCL | os.O_DIRECT)
        try:
            with processor.anywhere():
                _copy(reading, writing, offset, offset + length, skip_zeros=skip_zeros)
            os.fsync(writing)
        finally:
            os.close(writing)
    except OSError as error:
        raise _linux.failure(f"copy {source} to {target} at {offset}", error) from error
    finally:
        os.close(reading)


def _copy(reading: int, writing: int, position: int, end: int, *, skip_zeros: bool) -> None:
    area, array = _buffer()
    view = memoryview(area)
    while position < end:
        wanted = min(_BUFFER_BYTES, end - position)
        got = os.preadv(reading, [view[:wanted]], position)
        if got != wanted:
            raise HostError(f"the source ends at byte {position + got}, before the copy does")
        if _linux.is_zero(array, got):
            if not skip_zeros:
                fcntl.ioctl(writing, _BLKZEROOUT, struct.pack("=QQ", position, got))
        elif os.pwrite(writing, view[:got], position) != got:
            raise HostError(f"the target took less than was written at byte {position}")
        position += got


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise VolumeInUse(f"{path} is mounted or claimed by another device") from error
        raise _linux.failure(f"open {path}", error) from error


def _buffer() -> tuple[mmap.mmap, ctypes.Array[ctypes.c_char]]:
    """Give this thread's buffer, aligned to a page as O_DIRECT wants it."""
    try:
        return _buffers.pair  # type: ignore[no-any-return]  # threading.local has no types
    except AttributeError:
        area = mmap.mmap(-1, _BUFFER_BYTES)
        _buffers.pair = (area, (ctypes.c_char * _BUFFER_BYTES).from_buffer(area))
        return _buffers.pair  # type: ignore[no-any-return]  # threading.local has no types
