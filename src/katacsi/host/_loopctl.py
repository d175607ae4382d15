"""What loop devices are made of: their ioctls and their nodes.

Everything here is private to `katacsi.host.loop` and `katacsi.host.loopdevices`. Source: <linux/loop.h>,
<linux/fs.h>, drivers/block/loop.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

LOOP_CLR_FD = 0x4C01
LOOP_SET_STATUS64 = 0x4C04
LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_CAPACITY = 0x4C07
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_ADD = 0x4C80
LOOP_CTL_REMOVE = 0x4C81
LOOP_CTL_GET_FREE = 0x4C82
BLKROSET = 0x125D
BLKROGET = 0x125E
BLKSSZGET = 0x1268
BLKGETSIZE64 = 0x80081272

LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16

LOOP_MAJOR = 7

#: struct loop_info64 up to lo_flags: device, inode, rdevice, offset, sizelimit, number, 2 x encrypt, flags.
INFO = struct.Struct("=QQQQQIIII")
INFO_BYTES = 232
INFO_FLAGS_AT = 52
INFO_NAME_AT = 56
#: struct loop_config: fd, block_size, loop_info64 (INFO, lo_file_name, 112 bytes unused), 64 bytes reserved.
CONFIG = struct.Struct("=II QQQQQIIII 64s 112x 64x")
NAME_BYTES = 64

CONTROL = "/dev/loop-control"


def opened(number: int, flags: int) -> int:
    """Open /dev/loopN; in a container with a /dev of its own, the node of a new device is made first."""
    path = f"/dev/loop{number}"
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        try:
            major, minor = (
                int(part) for part in Path(f"/sys/block/loop{number}/dev").read_text("ascii").split(":")
            )
        except FileNotFoundError as error:
            raise OSError(errno.ENXIO, f"there is no loop device {number}") from error
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o660, os.makedev(major, minor))
        fd = os.open(path, flags | os.O_CLOEXEC)
    if os.major(os.fstat(fd).st_rdev) != LOOP_MAJOR:
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path} is not a loop device")
    return fd


def status(fd: int) -> bytes | None:
    """Give the device's loop_info64; None where it has no file, or is past losing it."""
    try:
        return fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(INFO_BYTES))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def file_of(fd: int) -> tuple[int, int] | None:
    """Give (st_dev, st_ino) of the file that a device has; None as for `status`."""
    info = status(fd)
    return None if info is None else INFO.unpack_from(info)[:2]


def name_of(info: bytes) -> str:
    """Give the name in a loop_info64, which is whatever its maker wrote there."""
    return info[INFO_NAME_AT : INFO_NAME_AT + NAME_BYTES].split(b"\0", 1)[0].decode(errors="replace")


def without_autoclear(info: bytes) -> bytes:
    """Give a loop_info64 without the flag that makes a device lose its file with its last holder."""
    changed = bytearray(info)
    flags = INFO.unpack_from(info)[8]
    struct.pack_into("=I", changed, INFO_FLAGS_AT, flags & ~LO_FLAGS_AUTOCLEAR)
    return bytes(changed)


def is_read_only(fd: int) -> bool:
    """Whether a device refuses writes."""
    return int.from_bytes(fcntl.ioctl(fd, BLKROGET, bytes(4)), "little") != 0


def ensure_writable(fd: int) -> None:
    """Take back that a device was set read-only; the minor would keep that for its next file."""
    if is_read_only(fd):
        fcntl.ioctl(fd, BLKROSET, bytes(4))


def free(control: int) -> int:
    """Give the number of a device without a file; others may be given the same one."""
    return fcntl.ioctl(control, LOOP_CTL_GET_FREE)


def added(control: int) -> int:
    """Make a new device and give its number."""
    return fcntl.ioctl(control, LOOP_CTL_ADD, -1)


# -- discard: the one-way trap -------------------------------------------------------------------------
# A zero in discard_max_bytes outlives the file: the minor keeps it for whoever gets it next, and refuses any
# other value from then on (Linux 6.18). Only removing the minor resets it.


def forbid_discard(number: int) -> None:
    """Make a device refuse discards, for all that it has a file; see `remove_minor` for afterwards."""
    if _queue(number, "discard_max_bytes"):
        Path(f"/sys/block/loop{number}/queue/discard_max_bytes").write_text("0", "ascii")


def discard_is_lost(number: int) -> bool:
    """Whether a device refuses discards that its file could take.

    Where the hardware limit is zero too, the backing filesystem has no holes to offer, and nothing is lost.
    """
    return _queue(number, "discard_max_bytes") == 0 and _queue(number, "discard_max_hw_bytes") > 0


def _queue(number: int, name: str) -> int:
    fd = os.open(f"/sys/block/loop{number}/queue/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 64))
    finally:
        os.close(fd)


def remove_minor(number: int) -> None:
    """Remove a device without a file; the next one of its number is a new one. In use again is success."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
    except OSError as error:
        # Taken again, or gone. Whoever has it, `attach` looks at the limit before it trusts a minor.
        if error.errno not in (errno.EBUSY, errno.ENODEV):
            raise
    finally:
        os.close(control)
