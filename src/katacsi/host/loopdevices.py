# ruff: noqa: PTH110, PTH116, PTH208 -- in a search over many devices a Path for each would cost more than the search
"""What loop devices there are, and which has a file: known by (st_dev, st_ino), which no renaming changes.

No state is kept but a hint where to look first.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from katacsi import errors
from katacsi.host import _linux, _loopctl, sizedfiles


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A loop device that has a file.

    Attributes:
        number: N of /dev/loopN.
        path: its node.
        backing: (st_dev, st_ino) of the file, linked or not.
        size_bytes: the device's size.
        read_only: writes to the device are refused, for whatever reason.
        direct_io: the page cache of the backing filesystem is bypassed.
        sector_size: the logical sector size, in bytes.
        autoclear: the device loses its file when the last holder closes it.
        offset: where in the file the device begins; nothing but 0 is of katacsi's making.
        size_limit: at most this many bytes of the file, 0 for all.
        file_read_only: the file was opened for reading only, which lasts as long as it is attached.
        backing_device: (major, minor) of the block device that stands in for a file, else (0, 0).
        label: what it was given at its making, which stays whatever becomes of the file.
        new: this very call of `loop.attach` made it.
    """

    number: int
    path: Path
    backing: tuple[int, int]
    size_bytes: int
    read_only: bool
    direct_io: bool
    sector_size: int
    autoclear: bool
    offset: int = 0
    size_limit: int = 0
    file_read_only: bool = False
    backing_device: tuple[int, int] = (0, 0)
    label: str = ""
    new: bool = field(default=False, compare=False)


# Which device a file had when we last looked; each use is checked against the device.
hints: dict[tuple[int, int], int] = {}


def attached_to(file: Path) -> LoopDevice | None:
    """Give the device that has this file; None is proof that no loop device has it.

    Of several (somebody called losetup twice) it is the lowest. The cost does not grow with the number of
    loop devices on the host, unless somebody else has the file open.

    Raises:
        HostError: the file is absent, or a device cannot be asked.
    """
    fd = open_backing(file, os.O_RDONLY | os.O_NONBLOCK)
    if fd is None:  # somebody else holds a lease on it: search
        status = os.stat(file, follow_symlinks=False)
        return holding((status.st_dev, status.st_ino))
    try:
        return attached_to_open(fd)
    except OSError as error:
        raise _linux.failure(f"look for a loop device of {file}", error) from error
    finally:
        os.close(fd)


def holding(backing: tuple[int, int]) -> LoopDevice | None:
    """Give the device of a file known by identity, even an unlinked one; None is proof that none has it."""
    hinted = _hinted(backing)
    if hinted:
        return hinted
    for device in devices():
        if device.backing == backing:
            hints[backing] = device.number
            return device
    return None


def devices() -> list[LoopDevice]:
    """Give all loop devices of the host that have a file, by number, whoever made them.

    But not those that cannot be asked for their file, whose filesystem was shut down or whose disk is gone: a
    file that could be looked at just now is none of theirs. See `looprelease`.
    """
    try:
        numbers = sorted(
            int(name[4:])
            for name in os.listdir("/sys/block")
            if name.startswith("loop") and name[4:].isdigit() and os.path.exists(f"/sys/block/{name}/loop")
        )
    except OSError as error:
        raise _linux.failure("list /sys/block", error) from error
    return [device for device in map(_answering, numbers) if device]


def _answering(number: int) -> LoopDevice | None:
    try:
        return described(number)
    except errors.HostError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
            return None
        raise


def described(number: int) -> LoopDevice | None:
    """Describe a device; None where it has no file (any more)."""
    try:
        fd = _loopctl.opened(number, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # removed, or losing its file just now
            return None
        raise _linux.failure(f"open /dev/loop{number}", error) from error
    try:
        return describe(fd, number)
    except OSError as error:
        raise _linux.failure(f"ask /dev/loop{number} for its file", error) from error
    finally:
        os.close(fd)


def describe(fd: int, number: int) -> LoopDevice | None:
    """Describe a device that is open; None where it has no file, or is past losing it."""
    info = _loopctl.status(fd)
    if info is None:
        return None
    device, inode, rdevice, offset, size_limit, _, _, _, flags = _loopctl.INFO.unpack_from(info)
    return LoopDevice(
        number=number,
        path=_node(number),
        backing=(device, inode),
        size_bytes=int.from_bytes(fcntl.ioctl(fd, _loopctl.BLKGETSIZE64, bytes(8)), "little"),
        read_only=_loopctl.is_read_only(fd),
        direct_io=bool(flags & _loopctl.LO_FLAGS_DIRECT_IO),
        sector_size=int.from_bytes(fcntl.ioctl(fd, _loopctl.BLKSSZGET, bytes(4)), "little"),
        autoclear=bool(flags & _loopctl.LO_FLAGS_AUTOCLEAR),
        offset=offset,
        size_limit=size_limit,
        file_read_only=bool(flags & _loopctl.LO_FLAGS_READ_ONLY),
        backing_device=(os.major(rdevice), os.minor(rdevice)),
        label=_loopctl.name_of(info),
    )


@functools.lru_cache(maxsize=256)  # asked for in every step, and to put one together costs more than an ioctl
def _node(number: int) -> Path:
    return Path(f"/dev/loop{number}")


def attached_to_open(fd: int) -> LoopDevice | None:
    """Do what `attached_to` does for a file that is open; raises OSError too."""
    status = os.fstat(fd)
    backing = (status.st_dev, status.st_ino)
    hinted = _hinted(backing)
    if hinted:
        return hinted
    # The lease proves absence in microseconds; with hundreds of loop devices a search takes milliseconds.
    if sizedfiles.is_shared(fd) is False:
        return None
    return holding(backing)


def _hinted(backing: tuple[int, int]) -> LoopDevice | None:
    number = hints.get(backing)
    if number is None:
        return None
    device = _answering(number)
    if device and device.backing == backing:
        return device
    hints.pop(backing, None)
    return None


def open_backing(file: Path, flags: int) -> int | None:
    """Open a backing file; None: with O_NONBLOCK in the flags, and somebody has a lease on it."""
    try:
        fd = os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BlockingIOError:
        return None
    except OSError as error:
        raise _linux.failure(f"open {file}", error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise errors.HostError(f"open {file}: it is not a regular file")
    return fd
