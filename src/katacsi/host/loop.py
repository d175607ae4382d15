# ruff: noqa: PTH110, PTH116, PTH208 -- ioctls need descriptors, device nodes need mknod; pathlib has neither
"""Loop devices: one per file, with direct I/O and the sector size that was asked for, and off again, proven.

A device belongs to a file by (st_dev, st_ino), which stays true when the file is renamed or unlinked. No
state is kept but a hint where to look first. Source: <linux/loop.h>, drivers/block/loop.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from katacsi import errors
from katacsi.host import _linux, sizedfiles

_LOOP_CLR_FD = 0x4C01
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_ADD = 0x4C80
_LOOP_CTL_REMOVE = 0x4C81
_LOOP_CTL_GET_FREE = 0x4C82
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272

_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16

_LOOP_MAJOR = 7

#: struct loop_info64 up to lo_flags: device, inode, rdevice, offset, sizelimit, number, 2 x encrypt, flags.
_INFO = struct.Struct("=QQQQQIIII")
_INFO_BYTES = 232
_INFO_FLAGS_AT = 52
_INFO_NAME_AT = 56
_INFO_NAME_BYTES = 64
#: struct loop_config: fd, block_size, loop_info64, 8 reserved u64.
_CONFIG_BYTES = 304
_CONFIG_INFO_AT = 8

_CONTROL = "/dev/loop-control"

#: Each try that fails means that somebody else got the free device, so this many is a storm.
_ATTACH_TRIES = 100
#: udevd and blkid open a device for moments; a detach waits this long for them, in seconds, doubling.
_DETACH_PAUSES_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
#: The lock on a backing file is held for milliseconds, by us alone.
_LOCK_TIMEOUT_S = 30.0

# Which device a file had when we last looked; each use is checked against the device.
_hints: dict[tuple[int, int], int] = {}
# "Which device is free?" has the same answer for all who ask at once; without this lock all but one would
# lose. Other processes are met by trying again.
_configuring = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A loop device that has a file.

    Attributes:
        number: N of /dev/loopN.
        path: its node.
        backing: (st_dev, st_ino) of the file, linked or not.
        size_bytes: the device's size.
        read_only: writes are refused.
        direct_io: the page cache of the backing filesystem is bypassed.
        sector_size: the logical sector size, in bytes.
        autoclear: the device loses its file when the last holder closes it.
        offset: where in the file the device begins; nothing but 0 is of katacsi's making.
        size_limit: at most this many bytes of the file, 0 for all.
        backing_device: (major, minor) of the block device that stands in for a file, else (0, 0).
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
    backing_device: tuple[int, int] = (0, 0)


def available() -> str | None:
    """Say why loop devices do not work here, or None where they do."""
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
        os.close(_open(number, os.O_RDWR))
    except FileNotFoundError:
        return f"{_CONTROL} is missing: run `modprobe loop`, and give a container the host's /dev"
    except PermissionError:
        return f"{_CONTROL} may not be used: run as root, a container as privileged"
    except OSError as error:
        return f"{_CONTROL}: {error.strerror}"
    return None


# -- which device has a file ---------------------------------------------------------------------------


def attached_to(file: Path) -> LoopDevice | None:
    """Give the device that has this file; None is proof that no loop device has it.

    Of several (somebody called losetup twice) it is the lowest. The cost does not grow with the number of
    loop devices on the host, unless somebody else has the file open.

    Raises:
        HostError: the file is absent, or a device cannot be asked.
    """
    fd = _open_backing(file, os.O_RDONLY | os.O_NONBLOCK)
    if fd is None:  # somebody else holds a lease on it: search
        status = os.stat(file, follow_symlinks=False)
        return holding((status.st_dev, status.st_ino))
    try:
        return _attached_to(fd)
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
            _hints[backing] = device.number
            return device
    return None


def devices() -> list[LoopDevice]:
    """Give all loop devices of the host that have a file, by number, whoever made them."""
    try:
        numbers = sorted(
            int(name[4:])
            for name in os.listdir("/sys/block")
            if name.startswith("loop") and name[4:].isdigit() and os.path.exists(f"/sys/block/{name}/loop")
        )
    except OSError as error:
        raise _linux.failure("list /sys/block", error) from error
    return [device for device in map(_described, numbers) if device]


def _attached_to(fd: int) -> LoopDevice | None:
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
    number = _hints.get(backing)
    if number is None:
        return None
    device = _described(number)
    if device and device.backing == backing:
        return device
    _hints.pop(backing, None)
    return None


def _described(number: int) -> LoopDevice | None:
    """Describe a device; None where it has no file (any more)."""
    try:
        fd = _open(number, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # removed, or losing its file just now
            return None
        raise _linux.failure(f"open /dev/loop{number}", error) from error
    try:
        return _describe(fd, number)
    except OSError as error:
        raise _linux.failure(f"ask /dev/loop{number} for its file", error) from error
    finally:
        os.close(fd)


def _describe(fd: int, number: int) -> LoopDevice | None:
    info = _status(fd)
    if info is None:
        return None
    device, inode, rdevice, offset, size_limit, _, _, _, flags = _INFO.unpack_from(info)
    return LoopDevice(
        number=number,
        path=Path(f"/dev/loop{number}"),
        backing=(device, inode),
        size_bytes=int.from_bytes(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)), "little"),
        read_only=int.from_bytes(fcntl.ioctl(fd, _BLKROGET, bytes(4)), "little") != 0,
        direct_io=bool(flags & _LO_FLAGS_DIRECT_IO),
        sector_size=int.from_bytes(fcntl.ioctl(fd, _BLKSSZGET, bytes(4)), "little"),
        autoclear=bool(flags & _LO_FLAGS_AUTOCLEAR),
        offset=offset,
        size_limit=size_limit,
        backing_device=(os.major(rdevice), os.minor(rdevice)),
    )


def _status(fd: int) -> bytes | None:
    """Give the device's loop_info64; None where it has no file, or is past losing it."""
    try:
        return fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO_BYTES))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _open_backing(file: Path, flags: int) -> int | None:
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


def _open(number: int, flags: int) -> int:
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
    if os.major(os.fstat(fd).st_rdev) != _LOOP_MAJOR:
        os.close(fd)
        raise OSError(errno.EINVAL, f"{path} is not a loop device")
    return fd


# -- attach --------------------------------------------------------------------------------------------


def attach(
    file: Path, *, sector_size: int = 4096, direct_io: bool = True, discard: bool = True
) -> LoopDevice:
    """Give the file a loop device: the one it has, or a new one with the wished properties, verified.

    A device that is there already shows the present size of its file afterwards. `discard=False` keeps
    guests, mkfs and fstrim from punching holes into a file whose blocks are reserved. However many threads or
    processes call this for one file at once, it gets one device.

    Raises:
        Precondition: somebody else attached the file with other properties.
        HostError: no device can be had, or the filesystem cannot do direct I/O.
    """
    # A descriptor of its own: an flock of the one that the loop device gets would last as long as the device.
    lock = _open_backing(file, os.O_RDONLY)
    assert lock is not None
    try:
        _linux.flock_within(lock, file, _LOCK_TIMEOUT_S)
        present = _attached_to(lock)
        if present:
            _require_fit(present, file, sector_size, direct_io=direct_io)
            fitting = _settled(present, os.fstat(lock).st_size, discard=discard)
            if fitting:
                return fitting
        device = _attach_new(file, sector_size, direct_io=direct_io, discard=discard)
        _hints[device.backing] = device.number
    except OSError as error:
        raise _linux.failure(f"attach {file} to a loop device", error) from error
    else:
        return device
    finally:
        os.close(lock)


def _require_fit(device: LoopDevice, file: Path, sector_size: int, *, direct_io: bool) -> None:
    wrong = []
    if device.sector_size != sector_size:
        wrong.append(f"{device.sector_size}-byte sectors instead of {sector_size}")
    if direct_io and not device.direct_io:
        wrong.append("no direct I/O")
    if device.offset or device.size_limit:
        wrong.append("only a part of the file")
    if device.read_only:
        wrong.append("read-only")
    if wrong:
        raise errors.Precondition(
            f"{file} is attached as {device.path} with {', '.join(wrong)}, not by katacsi:"
            f" detach it with `losetup -d {device.path}`"
        )


def _settled(device: LoopDevice, file_size: int, *, discard: bool) -> LoopDevice | None:
    """Finish what a crash or a foreign `losetup -d` left of a device; None: it is detached, start anew."""
    if device.autoclear:
        fd = _open(device.number, os.O_RDONLY)
        try:
            _take_back_autoclear(fd)
            described = _describe(fd, device.number)
        finally:
            os.close(fd)
        if described is None or described.backing != device.backing:
            return None
        device = described
    sector = device.sector_size
    if device.size_bytes // sector != file_size // sector:
        device = replace(device, size_bytes=set_capacity(device.path))
    if not discard:
        _forbid_discard(device.number)
    elif _discard_is_lost(device.number):
        try:
            detach(device, device.backing)
        except errors.VolumeInUse:
            return device  # it works; its freed blocks come back after the next attach
        return None
    return device


def _attach_new(file: Path, sector_size: int, *, direct_io: bool, discard: bool) -> LoopDevice:
    backing = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    fresh = False
    try:
        for _ in range(_ATTACH_TRIES):
            try:
                with _configuring:
                    number = fcntl.ioctl(control, _LOOP_CTL_ADD if fresh else _LOOP_CTL_GET_FREE, -fresh)
                    device = _configured(number, backing, file, sector_size, direct_io=direct_io)
            except OSError as error:
                # Somebody else got this device, or removed it just now.
                if error.errno in (errno.EBUSY, errno.ENXIO, errno.ENODEV):
                    continue
                raise
            try:
                _require_made(device, file, sector_size, direct_io=direct_io)
                if not discard:
                    _forbid_discard(number)
                elif not fresh and _discard_is_lost(number):
                    detach(device, device.backing)  # which removes the minor, so the next one is sound
                    fresh = True
                    continue
            except BaseException:
                detach(device, device.backing)
                raise
            return device
        raise errors.HostError(f"attach {file}: no loop device stayed free in {_ATTACH_TRIES} tries")
    finally:
        os.close(control)
        os.close(backing)


def _configured(number: int, backing: int, file: Path, sector_size: int, *, direct_io: bool) -> LoopDevice:
    config = bytearray(_CONFIG_BYTES)
    struct.pack_into("=II", config, 0, backing, sector_size)
    struct.pack_into("=I", config, _CONFIG_INFO_AT + _INFO_FLAGS_AT, _LO_FLAGS_DIRECT_IO if direct_io else 0)
    name = os.fsencode(file)[: _INFO_NAME_BYTES - 1]  # for people who call losetup; nothing reads it
    config[_CONFIG_INFO_AT + _INFO_NAME_AT : _CONFIG_INFO_AT + _INFO_NAME_AT + len(name)] = name
    fd = _open(number, os.O_RDWR)
    try:
        fcntl.ioctl(fd, _LOOP_CONFIGURE, bytes(config))
        device = _describe(fd, number)
    finally:
        os.close(fd)
    if device is None:
        raise OSError(errno.ENXIO, f"/dev/loop{number} lost its file at once")
    return device


def _require_made(device: LoopDevice, file: Path, sector_size: int, *, direct_io: bool) -> None:
    # The kernel drops the wish for direct I/O without a word where file and sector size do not fit.
    if direct_io and not device.direct_io:
        raise errors.HostError(
            f"attach {file}: no direct I/O with {sector_size}-byte sectors on this filesystem;"
            " put the pool on ext4, xfs or btrfs, or switch direct I/O off"
        )
    if device.sector_size != sector_size:
        raise errors.HostError(
            f"attach {file}: the kernel made {device.sector_size}-byte sectors, not {sector_size}"
        )


def set_capacity(device_path: Path) -> int:
    """Make a device show the present size of its file, also while it is in use; give that size in bytes."""
    try:
        fd = os.open(device_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _LOOP_SET_CAPACITY, 0)
            return int.from_bytes(fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)), "little")
        finally:
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"refresh the size of {device_path}", error) from error


# -- discard: the one-way trap -------------------------------------------------------------------------
# A zero in discard_max_bytes outlives the file: the minor keeps it for whoever gets it next, and refuses any
# other value from then on (Linux 6.18). Only removing the minor resets it.


def _queue(number: int, name: str) -> int:
    return int(Path(f"/sys/block/loop{number}/queue/{name}").read_text("ascii"))


def _forbid_discard(number: int) -> None:
    if _queue(number, "discard_max_bytes"):
        Path(f"/sys/block/loop{number}/queue/discard_max_bytes").write_text("0", "ascii")


def _discard_is_lost(number: int) -> bool:
    # Where the hardware limit is zero too, the backing filesystem has no holes to offer: nothing is lost.
    return _queue(number, "discard_max_bytes") == 0 and _queue(number, "discard_max_hw_bytes") > 0


def _remove_minor(number: int) -> None:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, _LOOP_CTL_REMOVE, number)
    except OSError as error:
        # Taken again, or gone. Whoever has it, `attach` looks at the limit before it trusts a minor.
        if error.errno not in (errno.EBUSY, errno.ENODEV):
            raise
    finally:
        os.close(control)


# -- detach --------------------------------------------------------------------------------------------


def ensure_detached(file: Path) -> None:
    """Leave no loop device with this file, not even one of two; none to begin with is success.

    Raises:
        VolumeInUse: a device is held; see `detach`.
    """
    while device := attached_to(file):
        detach(device, device.backing)


def detach(device: LoopDevice | Path, file_identity: tuple[int, int]) -> None:
    """Take the file (st_dev, st_ino) off the device, proven; a device that has it no more is success.

    Raises:
        VolumeInUse: somebody holds the device. It stays attached and usable: the kernel answers LOOP_CLR_FD
            of a held device with success and a promise (autoclear), which is taken back.
    """
    number = device.number if isinstance(device, LoopDevice) else int(device.name.removeprefix("loop"))
    try:
        _detach(number, file_identity)
    except OSError as error:
        raise _linux.failure(f"detach /dev/loop{number}", error) from error
    _hints.pop(file_identity, None)


def _detach(number: int, file_identity: tuple[int, int]) -> None:
    for pause_s in (*_DETACH_PAUSES_S, None):
        try:
            fd = _open(number, os.O_RDONLY | os.O_EXCL)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENODEV):
                return
            if error.errno != errno.EBUSY:
                raise
            # Mounted, or claimed by device-mapper, mkfs or swap; refused before anything was promised.
            raise _in_use(number) from error
        try:
            if _file_of(fd) != file_identity:
                return
            no_discard = _discard_is_lost(number)
            fcntl.ioctl(fd, _LOOP_CLR_FD, 0)
            cleared = _file_of(fd) != file_identity
            if not cleared and pause_s is None:
                _take_back_autoclear(fd)
                cleared = _file_of(fd) != file_identity
        finally:
            os.close(fd)
        if cleared and _proven_off(number, file_identity):
            if no_discard:
                _remove_minor(number)
            return
        if pause_s is not None:
            time.sleep(pause_s)
    raise _in_use(number)


def _file_of(fd: int) -> tuple[int, int] | None:
    info = _status(fd)
    return None if info is None else _INFO.unpack_from(info)[:2]


def _take_back_autoclear(fd: int) -> None:
    info = _status(fd)
    if info is None:
        return
    changed = bytearray(info)
    flags = _INFO.unpack_from(info)[8]
    struct.pack_into("=I", changed, _INFO_FLAGS_AT, flags & ~_LO_FLAGS_AUTOCLEAR)
    try:
        fcntl.ioctl(fd, _LOOP_SET_STATUS64, bytes(changed))
    except OSError as error:
        if error.errno != errno.ENXIO:  # the last holder left meanwhile, and the file with it
            raise


def _proven_off(number: int, file_identity: tuple[int, int]) -> bool:
    """Whether the kernel has let go of the file, or does within a moment."""
    for pause_s in _DETACH_PAUSES_S:
        if not os.path.exists(f"/sys/block/loop{number}/loop"):
            return True
        device = _described(number)
        if device:
            return device.backing != file_identity
        time.sleep(pause_s)  # past losing it, not yet done
    return False


def _in_use(number: int) -> errors.VolumeInUse:
    return errors.VolumeInUse(
        f"/dev/loop{number} is mounted or held open; end what uses it (`fuser -v /dev/loop{number}`)"
    )
