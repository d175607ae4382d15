# ruff: noqa: PTH110, PTH116, PTH208 -- in a search over many devices a Path for each would cost more than the search
"""Which loop device has a file: known by (st_dev, st_ino), which no renaming or unlinking changes.

No state is kept but a hint where to look first.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux, _loopctl, sizedfiles

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.host._loopctl import LoopDevice

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
    """Give all loop devices of the host that have a file, by number, whoever made them."""
    try:
        numbers = sorted(
            int(name[4:])
            for name in os.listdir("/sys/block")
            if name.startswith("loop") and name[4:].isdigit() and os.path.exists(f"/sys/block/{name}/loop")
        )
    except OSError as error:
        raise _linux.failure("list /sys/block", error) from error
    return [device for device in map(_loopctl.described, numbers) if device]


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
    device = _loopctl.described(number)
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
