"""What is mounted where, as the kernel tells it in /proc/self/mountinfo.

A path is matched by mount id, not by its text: paths go through symlinks, and mounts hide each other.
Source: proc_pid_mountinfo(5), statx(2).
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOUNTINFO = "/proc/self/mountinfo"
_READ_BYTES = 1 << 20
_ESCAPED = re.compile(rb"\\([0-7]{3})")

#: A mount seen by statx but not in the table read next was unmounted in between; that ends soon.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes:
        id: the mount id, unique while it is mounted.
        parent_id: the mount it lies on.
        device: (major, minor) of the filesystem's block device; anonymous (major 0) where it has none.
        root: the path within the filesystem that is seen here; "/" unless it is a bind mount of less.
        target: the mount point.
        options: the flags of this mount, such as "ro" of a read-only bind.
        fs_type: the filesystem's type.
        source: what was given as source when the filesystem was mounted.
        super_options: the options of the filesystem, the same at all its mounts.
        propagation: how mounts below it spread, such as "shared:1" or "master:2"; none: they do not.
    """

    id: int
    parent_id: int
    device: tuple[int, int]
    root: str
    target: Path
    options: tuple[str, ...]
    fs_type: str
    source: str
    super_options: tuple[str, ...]
    propagation: tuple[str, ...] = ()

    @property
    def read_only(self) -> bool:
        """Whether writes are refused here, by this mount or by the filesystem as a whole."""
        return "ro" in self.options or "ro" in self.super_options


def table() -> list[Mount]:
    """Give all mounts that this process sees."""
    return [_parsed(line) for line in _split(_read())]


def at(path: Path) -> list[Mount]:
    """Give the mounts stacked exactly at a path, bottom to top; none there costs no read of the table.

    A symlink at the end of the path is not followed, those before it are. Absent: nothing is mounted there.
    """
    for _ in range(_TRIES):
        try:
            mount_id, is_root = _linux.mount_here(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.EIO:
                # A filesystem that was shut down answers nothing any more; the table still has it.
                return _named(path)
            raise _linux.failure(f"look for a mount at {path}", error) from error
        if not is_root:
            return []
        stack = _stack(mount_id)
        if stack:
            return stack
    raise errors.HostError(f"look for a mount at {path}: what is mounted there changes all the time; retry")


def _named(path: Path) -> list[Mount]:
    target = path.parent.resolve() / path.name
    return [mount for mount in table() if mount.target == target]


def _stack(top_id: int) -> list[Mount]:
    raw = b"\n" + _read()
    stack: list[Mount] = []
    next_id = top_id
    while (start := raw.find(b"\n%d " % next_id) + 1) > 0:
        mount = _parsed(raw[start : raw.index(b"\n", start)])
        # Each mount of a stack lies on the one below; the first with another target carries the stack.
        if stack and mount.target != stack[-1].target:
            break
        stack.append(mount)
        next_id = mount.parent_id
        if next_id == mount.id:
            break
    return stack[::-1]


def of_device(device: tuple[int, int]) -> list[Mount]:
    """Give the mounts of the filesystem on a block device (major, minor), wherever they are."""
    return of_device_in(_read(), device)


def of_device_in(raw: bytes, device: tuple[int, int]) -> list[Mount]:
    """Do as `of_device`, for the table of another mount namespace, as a process in it shows it."""
    marks = (b" %d:%d " % device, b" - btrfs ")
    return [mount for mount in _with_any(marks, raw) if mount.device == device]


def mentioning(source: str, device: tuple[int, int] | None, node: str) -> list[Mount]:
    """Give the mounts that may have this source, be of this device or show this device node; others, too.

    A node of many pods has thousands of mounts, and to take each line apart costs more than to read them.
    """
    marks = [source.encode(), b" - btrfs "]
    marks += [b" %d:%d " % device] if device else []
    marks += [os.fsencode(node) + b" "] if node else []
    if any(byte in b"\t\n \\#" for mark in (source, node) for byte in os.fsencode(mark)):
        return table()  # the table shows such signs in another way
    return _with_any(marks, _read())


def below(path: Path) -> list[Mount]:
    """Give the mounts beneath a path, not those at it; symlinks in the path are followed."""
    try:
        top = path.resolve(strict=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _linux.failure(f"look for mounts below {path}", error) from error
    return [mount for mount in table() if top in mount.target.parents]


def _with_any(marks: Iterable[bytes], raw: bytes) -> list[Mount]:
    found = [mark for mark in marks if mark in raw]  # mostly none, and then no line is looked at
    return [_parsed(line) for line in _split(raw) if any(mark in line for mark in found)] if found else []


def _split(raw: bytes) -> list[bytes]:
    # Not splitlines: a carriage return may be part of a path, and is not escaped.
    return raw.split(b"\n")[:-1]


def _read() -> bytes:
    try:
        fd = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # The kernel hands out a page at a time and keeps its place while mounts come and go (Linux 5.8).
            chunks = []
            while chunk := os.read(fd, _READ_BYTES):
                chunks.append(chunk)
        finally:
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"read {_MOUNTINFO}", error) from error
    return b"".join(chunks)


def _parsed(line: bytes) -> Mount:
    # id parent major:minor root target options [optional fields] - type source super_options
    try:
        left, right = line.split(b" - ", 1)
        mount_id, parent_id, device, root, target, options, *propagation = left.split(b" ")
        fs_type, source, super_options = right.split(b" ", 2)
        major, minor = map(int, device.split(b":"))
        if major == 0 and fs_type == b"btrfs":
            # A btrfs has an anonymous number, as it may have many devices; the source is the block device.
            major, minor = _block_device(_unescaped(source)) or (major, minor)
        return Mount(
            id=int(mount_id),
            parent_id=int(parent_id),
            device=(major, minor),
            root=_unescaped(root),
            target=Path(_unescaped(target)),
            options=tuple(_unescaped(options).split(",")),
            fs_type=_unescaped(fs_type),
            source=_unescaped(source),
            super_options=tuple(_unescaped(super_options).split(",")),
            propagation=tuple(os.fsdecode(word) for word in propagation),
        )
    except ValueError as error:
        raise errors.HostError(f"read {_MOUNTINFO}: not understood: {os.fsdecode(line)}") from error


def _block_device(path: str) -> tuple[int, int] | None:
    try:
        return _linux.block_device_at(path)
    except OSError:
        return None  # a source is but a text: the name of a device that is gone names no device of today


def _unescaped(text: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), text))
