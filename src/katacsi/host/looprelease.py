# ruff: noqa: PTH110, PTH208 -- as in `loopdevices`: ioctls need descriptors
"""Loop devices whose file cannot be asked any more: found by the kernel's own facts, and taken away.

A file may be unlinked, its filesystem unmounted with force or shut down, its disk gone. The device is still
there then, and says which label it was given at its making. Where the filesystem was shut down, it answers
EIO even to that, and there is only the path of its file, in sysfs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from katacsi import errors
from katacsi.host import _linux, _loopctl, holders, loop

#: What the kernel appends to the path of a file without a name.
_UNLINKED = " (deleted)"
#: udevd and blkid open a device for moments; a release waits this long for them, in seconds, doubling.
_PAUSES_S = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)


@dataclass(frozen=True, slots=True)
class Found:
    """A loop device as the kernel shows it without asking its file.

    Attributes:
        number: N of /dev/loopN.
        shown: the path of its file in sysfs, as the kernel made it: of a file whose filesystem is not mounted
            here any more it begins at the root of that filesystem.
        label: what it was given at its making; None: its file's filesystem answers nothing.
    """

    number: int
    shown: str
    label: str | None

    @property
    def path(self) -> Path:
        """Its node."""
        return Path(f"/dev/loop{self.number}")

    def is_of(self, file: Path) -> bool:
        """Whether the path of its file is this one, be it unlinked."""
        return self.shown.removesuffix(_UNLINKED) == str(file)


def every() -> list[Found]:
    """Give all loop devices of the host that have a file, by number, without asking the files.

    Raises:
        HostError: sysfs cannot be read.
    """
    try:
        numbers = sorted(int(name[4:]) for name in os.listdir("/sys/block") if name[4:].isdigit())
        found = [_look(number) for number in numbers if os.path.exists(f"/sys/block/loop{number}/loop")]
    except OSError as error:
        raise _linux.failure("look for loop devices in /sys/block", error) from error
    return [device for device in found if device]


def release(found: Found) -> None:
    """Take the file off a device, proven, without asking the file.

    A device that has another file by now is success.

    Raises:
        VolumeInUse: somebody holds the device.
    """
    held: list[holders.Holder] = []
    try:
        for pause_s in (*_PAUSES_S, None):
            if _is_off(found):
                return
            # Asked first: the kernel takes the file off a held device as soon as that is held no more.
            with contextlib.suppress(errors.HostError):  # nobody can say; then it shows
                held = holders.now(found.path)
            if not held:
                _clear(found)
                if _is_off(found):
                    return
            if pause_s is not None:
                time.sleep(pause_s)
    except OSError as error:
        raise _linux.failure(f"detach {found.path} from {found.shown}", error) from error
    who = ", ".join(map(str, held)) or "somebody in another PID namespace"
    raise errors.VolumeInUse(
        f"{found.path} ({found.shown}) is held by {who}; end what uses it (`fuser -v {found.path}`)"
    )


def _look(number: int) -> Found | None:
    shown = _shown(number)
    if shown is None:
        return None
    try:
        fd = _loopctl.opened(number, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):
            return None
        raise
    try:
        info = _loopctl.status(fd)
    except OSError:
        return Found(number, shown, None)
    finally:
        os.close(fd)
    return None if info is None else Found(number, shown, _loopctl.name_of(info))


def _shown(number: int) -> str | None:
    try:
        return Path(f"/sys/block/loop{number}/loop/backing_file").read_text().rstrip("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # it loses its file just now
            return None
        raise


def _is_off(found: Found) -> bool:
    present = _look(found.number)
    return present is None or (present.shown, present.label) != (found.shown, found.label)


def _clear(found: Found) -> None:
    fd = loop.claimed(found.number)
    if fd is None:
        return
    try:
        if _is_off(found):  # by now the device could be another one's
            return
        _loopctl.ensure_writable(fd)
        fcntl.ioctl(fd, _loopctl.LOOP_CLR_FD, 0)
    except OSError as error:
        if error.errno != errno.ENXIO:  # it lost its file just now
            raise
    finally:
        os.close(fd)
