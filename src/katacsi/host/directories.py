# ruff: noqa: PTH102, PTH104, PTH106, PTH112, PTH116, PTH120, PTH208 -- descriptors and errno decide here; pathlib has neither
"""Directories, names and what a path stands for: made, renamed, listed and removed with care.

What an errno means is decided here: absent is said on ENOENT alone, everything else is an error.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi import errors
from katacsi.host import _linux, processor

if TYPE_CHECKING:
    from pathlib import Path

#: So often, and so far apart in seconds, a filesystem is asked that may be freeing something.
_SETTLING_LOOKS: Final = 50
_SETTLING_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Room:
    """What a filesystem has: its size and what is free for files, in bytes, and whether it is read-only."""

    total_bytes: int
    available_bytes: int
    read_only: bool


def ensure_directory(path: Path, mode: int = 0o700) -> None:
    """Make the directory and its missing parents, all with this mode; one that exists is left as it is."""
    try:
        os.mkdir(path, mode)
    except FileExistsError as error:
        if not os.path.isdir(path):
            raise errors.HostError(f"create directory {path}: a file has that name") from error
    except FileNotFoundError as error:
        if path.parent == path:
            raise _linux.failure(f"create directory {path}", error) from error
        ensure_directory(path.parent, mode)
        ensure_directory(path, mode)
    except OSError as error:
        raise _linux.failure(f"create directory {path}", error) from error


def ensure_directory_absent(path: Path) -> None:
    """Remove an empty directory; absent is success. What lies in it stays, and is an error."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _linux.failure(f"remove directory {path}", error) from error


def remove_tree(path: Path) -> None:
    """Remove a directory of the caller's own with all that is in it; absent is success.

    Symlinks are removed, not followed. A mount anywhere in the tree ends the work with an error before
    anything of the mounted filesystem is touched: unlike shutil.rmtree, which would empty the volume.
    """
    try:
        os.rmdir(path)  # an empty one needs no look into it, and a mount makes this fail, too
    except FileNotFoundError:
        return
    except OSError:
        pass
    else:
        return
    try:
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _linux.failure(f"remove {path}", error) from error
    try:
        with processor.anywhere():  # to free the blocks of a large file takes a while
            _remove_tree(parent, path.name, path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _linux.failure(f"remove {path}", error) from error
    finally:
        os.close(parent)


def _remove_tree(parent: int, name: str, shown: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent)
    try:
        if _linux.mount_here("", directory=fd)[1]:
            raise errors.HostError(f"remove {shown}: something is mounted there; unmount it first")
        with os.scandir(fd) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(fd, entry.name, shown / entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


def rename(src: Path, dst: Path) -> None:
    """Give a file or directory another name, durably.

    Raises:
        AlreadyExists: the new name is taken; nothing was changed.
    """
    try:
        try:
            _linux.rename_noreplace(src, dst)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # A filesystem without RENAME_NOREPLACE: look, then rename; callers are serialised by volume.
            if os.path.lexists(dst):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            os.rename(src, dst)
        former, parent = os.path.dirname(src), os.path.dirname(dst)
        _linux.sync_directory(parent)
        if former != parent:
            _linux.sync_directory(former)
    except FileExistsError as error:
        raise errors.AlreadyExists(f"rename {src} to {dst}: the new name is taken") from error
    except OSError as error:
        raise _linux.failure(f"rename {src} to {dst}", error) from error


def list_directory(path: Path) -> list[str]:
    """Give the names in a directory, sorted; a directory that is absent is an error, not an empty one."""
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        raise _linux.failure(f"list {path}", error) from error


def identity(path: Path) -> tuple[int, int]:
    """Give (st_dev, st_ino) of a file: what it is, whatever it is called."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _linux.failure(f"look at {path}", error) from error
    return status.st_dev, status.st_ino


def sync_directory(path: Path) -> None:
    """Make the names in a directory outlast a power cut."""
    try:
        _linux.sync_directory(path)
    except OSError as error:
        raise _linux.failure(f"make the names in {path} durable", error) from error


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted exactly here; a bind mount of a file counts, an absent path does not."""
    try:
        return _linux.mount_here(path)[1]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _linux.failure(f"look for a mount at {path}", error) from error


def in_memory(path: Path) -> bool:
    """Whether a directory lies on tmpfs, where a short write never waits for a disk.

    Raises:
        HostError: it is absent or cannot be looked at.
    """
    return _magic(path) == _linux.TMPFS_MAGIC


def _magic(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return _linux.filesystem_magic(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _linux.failure(f"look at {path}", error) from error


def room(path: Path) -> Room:
    """Say what the filesystem of a path has in all and has left for files, in bytes."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise _linux.failure(f"look at the filesystem of {path}", error) from error
    return Room(
        total_bytes=status.f_blocks * status.f_frsize,
        available_bytes=status.f_bavail * status.f_frsize,
        read_only=bool(status.f_flag & os.ST_RDONLY),
    )


def settled_room(path: Path) -> Room:
    """Say what `room` says, on XFS once it says it twice: that frees what was removed a moment later.

    It waits half a second at most, for others may write all the time.
    """
    present = room(path)
    for _ in range(_SETTLING_LOOKS if _magic(path) == _linux.XFS_SUPER_MAGIC else 0):
        time.sleep(_SETTLING_PAUSE_S)
        former, present = present, room(path)
        if present == former:
            break
    return present
