# ruff: noqa: PTH110 -- ioctls need descriptors; pathlib has none
"""Loop devices: one per file, with direct I/O and the sector size that was asked for, and off again, proven.

Which device has a file is told by `loopdevices`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux, _loopctl, loopdevices
from katacsi.host.loopdevices import LoopDevice

if TYPE_CHECKING:
    from pathlib import Path

#: A try fails when somebody else is about to get the device that is free; within these seconds one is ours.
_ATTACH_TIMEOUT_S = 10.0
_ATTACH_PAUSE_S = 0.005
#: udevd and blkid open a device for moments; a detach waits this long for them, in seconds, doubling.
_DETACH_PAUSES_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
#: So long, in seconds, a claim is waited for: somebody else's LOOP_CONFIGURE, in search of a free device,
#: claims even ours for a moment. Other claims (a mount) last, and need not be waited for.
_CLAIM_PAUSES_S = (0.001, 0.002, 0.004, 0.008, 0.016)
#: The lock on a backing file is held for milliseconds, by us alone.
_LOCK_TIMEOUT_S = 30.0

# "Which device is free?" has the same answer for all who ask at once; without this lock all but one would
# lose. Other processes are met by trying again.
_configuring = threading.Lock()


def available() -> str | None:
    """Say why loop devices do not work here, or None where they do."""
    try:
        control = os.open(_loopctl.CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = _loopctl.free(control)
        finally:
            os.close(control)
        os.close(_loopctl.opened(number, os.O_RDWR))
    except FileNotFoundError:
        return f"{_loopctl.CONTROL} is missing: run `modprobe loop`, and give a container the host's /dev"
    except PermissionError:
        return f"{_loopctl.CONTROL} may not be used: run as root, a container as privileged"
    except OSError as error:
        return f"{_loopctl.CONTROL}: {error.strerror}"
    return None


# -- attach --------------------------------------------------------------------------------------------


def attach(
    file: Path, *, sector_size: int = 4096, direct_io: bool = True, discard: bool = True, label: str = ""
) -> LoopDevice:
    """Give the file a loop device: the one it has, or a new one with the wished properties, verified.

    A device that is there already shows the present size of its file afterwards. `discard=False` keeps
    guests, mkfs and fstrim from punching holes into a file whose blocks are reserved. A new device carries
    the label, at most 63 bytes, by which `looprelease` finds it when its file cannot be asked. However many
    threads or processes call this for one file at once, it gets one device.

    Raises:
        Precondition: somebody else attached the file with other properties.
        HostError: no device can be had, or the filesystem cannot do direct I/O.
    """
    # A descriptor of its own: an flock of the one that the loop device gets would last as long as the device.
    lock = loopdevices.open_backing(file, os.O_RDONLY)
    assert lock is not None
    try:
        _linux.flock_within(lock, file, _LOCK_TIMEOUT_S)
        present = loopdevices.attached_to_open(lock)
        if present:
            _require_fit(present, file, sector_size, direct_io=direct_io)
            fitting = _settled(present, os.fstat(lock).st_size, discard=discard)
            if fitting:
                return fitting
        device = _attach_new(file, sector_size, label, direct_io=direct_io, discard=discard)
        loopdevices.hints[device.backing] = device.number
    except OSError as error:
        raise _linux.failure(f"attach {file} to a loop device", error) from error
    else:
        return replace(device, new=True)
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
    if device.file_read_only:
        wrong.append("read-only")
    if wrong:
        raise errors.Precondition(
            f"{file} is attached as {device.path} with {', '.join(wrong)}, not by katacsi:"
            f" detach it with `losetup -d {device.path}`"
        )


def _settled(device: LoopDevice, file_size: int, *, discard: bool) -> LoopDevice | None:
    """Finish what a crash or a foreign `losetup -d` left of a device; None: it is detached, start anew."""
    if device.autoclear:
        fd = _loopctl.opened(device.number, os.O_RDONLY)
        try:
            _take_back_autoclear(fd)
            described = loopdevices.describe(fd, device.number)
        finally:
            os.close(fd)
        if described is None or described.backing != device.backing:
            return None
        device = described
    sector = device.sector_size
    if device.size_bytes // sector != file_size // sector:
        device = replace(device, size_bytes=set_capacity(device.path))
    if not discard:
        _loopctl.forbid_discard(device.number)
    elif _loopctl.discard_is_lost(device.number):
        try:
            detach(device, device.backing)
        except errors.VolumeInUse:
            return device  # it works; its freed blocks come back after the next attach
        return None
    return device


def _attach_new(file: Path, sector_size: int, label: str, *, direct_io: bool, discard: bool) -> LoopDevice:
    backing = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    control = os.open(_loopctl.CONTROL, os.O_RDWR | os.O_CLOEXEC)
    fresh = False
    try:
        deadline = time.monotonic() + _ATTACH_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with _configuring:
                    number = _loopctl.added(control) if fresh else _loopctl.free(control)
                    device = _configured(number, backing, label, sector_size, direct_io=direct_io)
            except OSError as error:
                # Somebody else is getting this device, or removed it just now.
                if error.errno not in (errno.EBUSY, errno.ENXIO, errno.ENODEV):
                    raise
                time.sleep(_ATTACH_PAUSE_S)
                continue
            try:
                _require_made(device, file, sector_size, direct_io=direct_io)
                if not discard:
                    _loopctl.forbid_discard(number)
                elif not fresh and _loopctl.discard_is_lost(number):
                    detach(device, device.backing)  # which removes the minor, so the next one is sound
                    fresh = True
                    continue
            except BaseException:
                detach(device, device.backing)
                raise
            return device
        raise errors.HostError(f"attach {file}: no loop device stayed free for {_ATTACH_TIMEOUT_S:g} s")
    finally:
        os.close(control)
        os.close(backing)


def _configured(number: int, backing: int, label: str, sector_size: int, *, direct_io: bool) -> LoopDevice:
    flags = _loopctl.LO_FLAGS_DIRECT_IO if direct_io else 0
    name = label.encode()
    assert len(name) < _loopctl.NAME_BYTES, label
    nothing = (0,) * 8
    config = _loopctl.CONFIG.pack(backing, sector_size, *nothing, flags, name)
    fd = _loopctl.opened(number, os.O_RDWR)
    try:
        fcntl.ioctl(fd, _loopctl.LOOP_CONFIGURE, config)
        device = loopdevices.describe(fd, number)
        if device is not None and device.read_only:
            _loopctl.ensure_writable(fd)
            device = loopdevices.describe(fd, number)
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
            fcntl.ioctl(fd, _loopctl.LOOP_SET_CAPACITY, 0)
            return int.from_bytes(fcntl.ioctl(fd, _loopctl.BLKGETSIZE64, bytes(8)), "little")
        finally:
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"refresh the size of {device_path}", error) from error


# -- detach --------------------------------------------------------------------------------------------


def ensure_detached(file: Path) -> None:
    """Leave no loop device with this file, not even one of two; none to begin with is success.

    Raises:
        VolumeInUse: a device is held; see `detach`.
    """
    while device := loopdevices.attached_to(file):
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
    loopdevices.hints.pop(file_identity, None)


def _detach(number: int, file_identity: tuple[int, int]) -> None:
    without_discard = False
    for pause_s in (*_DETACH_PAUSES_S, None):
        fd = claimed(number)
        cleared = fd is None
        if fd is not None:
            try:
                without_discard = without_discard or _loopctl.discard_is_lost(number)
                cleared = _cleared(fd, file_identity, is_last_try=pause_s is None)
            finally:
                os.close(fd)
        if cleared and _proven_off(number, file_identity):
            if without_discard:
                _loopctl.remove_minor(number)
            return
        if pause_s is not None:
            time.sleep(pause_s)
    raise _in_use(number)


def claimed(number: int) -> int | None:
    """Open a device for ourselves alone; None where it has no file, or is losing it just now.

    Mounted, or claimed by device-mapper, mkfs or swap, it is refused before the kernel is told anything.
    """
    for pause_s in (*_CLAIM_PAUSES_S, None):
        try:
            return _loopctl.opened(number, os.O_RDONLY | os.O_EXCL)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENODEV):
                return None
            if error.errno != errno.EBUSY:
                raise
        if pause_s is not None:
            time.sleep(pause_s)
    raise _in_use(number)


def _cleared(fd: int, file_identity: tuple[int, int], *, is_last_try: bool) -> bool:
    """Ask for the file to be taken off; whether it is, once this descriptor is closed."""
    if _loopctl.file_of(fd) != file_identity:
        return True
    try:
        fcntl.ioctl(fd, _loopctl.LOOP_CLR_FD, 0)
    except OSError as error:
        if error.errno != errno.ENXIO:  # it lost its file just now, as its last holder left
            raise
    # To a device that nobody else has open this was an order, and it says so; else it became autoclear.
    if is_last_try and _loopctl.file_of(fd) == file_identity:
        _take_back_autoclear(fd)
    if _loopctl.file_of(fd) == file_identity:
        return False
    _loopctl.ensure_writable(fd)
    return True


def _take_back_autoclear(fd: int) -> None:
    info = _loopctl.status(fd)
    if info is None:
        return
    try:
        fcntl.ioctl(fd, _loopctl.LOOP_SET_STATUS64, _loopctl.without_autoclear(info))
    except OSError as error:
        if error.errno != errno.ENXIO:  # the last holder left meanwhile, and the file with it
            raise


def _proven_off(number: int, file_identity: tuple[int, int]) -> bool:
    """Whether the kernel has let go of the file, or does within a moment."""
    for pause_s in _DETACH_PAUSES_S:
        if not os.path.exists(f"/sys/block/loop{number}/loop"):
            return True
        device = loopdevices.described(number)
        if device:
            return device.backing != file_identity
        time.sleep(pause_s)  # past losing it, not yet done
    return False


def _in_use(number: int) -> errors.VolumeInUse:
    return errors.VolumeInUse(
        f"/dev/loop{number} is mounted or held open; end what uses it (`fuser -v /dev/loop{number}`)"
    )
