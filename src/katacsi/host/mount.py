"""Mounts and unmounts, by system call; what is mounted is told by `mounttable`.

A target is opened without following a symlink and mounted on by descriptor, so that it cannot be exchanged
in between, and nothing is ever stacked on a mount that is there already.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux, busy
from katacsi.host.mountoptions import bind_attributes, split_flags
from katacsi.host.mounttable import Mount, at, mentioning, of_device
from katacsi.host.targets import ensure_target_directory, ensure_target_file, remove_target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "Mount",
    "StatVfs",
    "at",
    "bind",
    "ensure_target_directory",
    "ensure_target_file",
    "freeze",
    "mentioning",
    "mount_filesystem",
    "mount_tmpfs",
    "of_device",
    "remount_bind",
    "remove_target",
    "thaw",
    "unmount",
    "usage",
]

#: More mounts than this on one path are somebody adding them as fast as we take them off.
_MAX_STACK = 100


@dataclass(frozen=True, slots=True)
class StatVfs:
    """How full a filesystem is, in bytes and inodes; `available_bytes` is what ordinary users may take."""

    total_bytes: int
    available_bytes: int
    used_bytes: int
    total_inodes: int
    free_inodes: int
    used_inodes: int


# -- mounting ------------------------------------------------------------------------------------------


def mount_filesystem(
    device: Path, target: Path, fs_type: str, flags: Sequence[str], *, read_only: bool = False
) -> None:
    """Mount the filesystem on a block device at an existing directory.

    Raises:
        InvalidRequest: a flag that is no mount option of a filesystem, or a target that is a symlink.
        VolumeInUse: the target is a mount point, or the device is in use in another way.
        HostError: the kernel refused (its log says why: damaged, unknown option, unknown type).
    """
    bits, data = split_flags(flags)
    if read_only:
        bits |= _linux.MS_RDONLY
    _mount(str(device), target, fs_type, bits, data)


def mount_tmpfs(target: Path, source: str, options: str, *, read_only: bool = True) -> None:
    """Mount an empty tmpfs, nosuid, nodev and noexec, with `source` as its name in the mount table."""
    bits = _linux.MS_NOSUID | _linux.MS_NODEV | _linux.MS_NOEXEC
    _mount(source, target, "tmpfs", bits | (_linux.MS_RDONLY if read_only else 0), options)


def _mount(source: str, target: Path, fs_type: str, bits: int, data: str) -> None:
    fd = _opened_target(target)
    try:
        # By descriptor: mount(2) would follow a symlink that was put there a moment ago.
        _linux.mount(source, f"/proc/self/fd/{fd}", fs_type, bits, data)
    except OSError as error:
        message = f"mount {source} ({fs_type}) at {target}: {error.strerror}"
        if error.errno == errno.EBUSY:
            raise errors.VolumeInUse(
                f"{message}; it is mounted elsewhere with other flags, or claimed"
            ) from error
        if error.errno == errno.ENODEV:
            raise errors.HostError(f"{message}; this kernel has no {fs_type}: modprobe {fs_type}") from error
        raise errors.HostError(f"{message}; see the kernel's log") from error
    finally:
        os.close(fd)


def bind(source: Path, target: Path, *, read_only: bool, flags: Sequence[str] = ()) -> None:
    """Show a directory, or a file such as a device node, at an existing target of the same kind too.

    It appears with all its flags at once: there is no moment in which a read-only bind can be written. Flags
    that a bind cannot have are the filesystem's and were given when that was mounted.

    Raises:
        InvalidRequest: the target is a symlink.
        VolumeInUse: the target is a mount point.
    """
    add, remove = bind_attributes(flags, read_only=read_only)
    target_fd = _opened_target(target)
    try:
        mount_fd = _linux.clone_mount(source)
        try:
            if add or remove:
                _linux.set_mount_attributes(mount_fd, "", add=add, remove=remove)
            _linux.attach_mount(mount_fd, target_fd)
        finally:
            os.close(mount_fd)
    except OSError as error:
        raise _linux.failure(f"bind {source} to {target}", error) from error
    finally:
        os.close(target_fd)


def remount_bind(target: Path, *, read_only: bool, flags: Sequence[str] = ()) -> None:
    """Make the mount at a target read-only or writable, and set these flags; what is not named stays.

    Other mounts of the same filesystem stay as they are.

    Raises:
        VolumeInUse: it shall be read-only and somebody writes to a file there.
        HostError: nothing is mounted there.
    """
    add, remove = bind_attributes(flags, read_only=read_only)
    if not read_only:
        add, remove = add & ~_linux.MOUNT_ATTR_RDONLY, remove | _linux.MOUNT_ATTR_RDONLY
    try:
        _linux.set_mount_attributes(_linux.AT_FDCWD, target, add=add, remove=remove)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.VolumeInUse(f"{target}: a file there is open for writing") from error
        if error.errno == errno.EINVAL:
            raise errors.HostError(f"remount {target}: nothing is mounted there") from error
        raise _linux.failure(f"remount {target}", error) from error


def _opened_target(target: Path) -> int:
    try:
        fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"mount at {target}", error) from error
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise errors.InvalidRequest("target_path", f"{target} is a symlink")
    if _linux.mount_here("", directory=fd)[1]:
        os.close(fd)
        raise errors.VolumeInUse(f"{target}: something is mounted there already")
    return fd


# -- unmounting ----------------------------------------------------------------------------------------


def unmount(target: Path) -> None:
    """Take all mounts off a target, however many are stacked; none, or no such path, is success.

    Raises:
        VolumeInUse: somebody uses it. It stays mounted: never lazily, as data could still be written later.
    """
    for _ in range(_MAX_STACK):
        try:
            _linux.umount(target)
            if not _linux.mount_here(target)[1]:
                return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTDIR) and not at(target):
                return
            if error.errno == errno.EBUSY:
                who = busy.in_the_way(target) or "somebody who cannot be seen from here uses it"
                raise errors.VolumeInUse(f"{target} is busy: {who}. End that, then retry") from error
            raise _linux.failure(f"unmount {target}", error) from error
    raise errors.HostError(
        f"unmount {target}: still mounted after {_MAX_STACK} unmounts; somebody remounts it"
    )


# -- a mounted filesystem ------------------------------------------------------------------------------


def freeze(path: Path) -> bool:
    """Write everything back and stop all writes to the filesystem mounted at a path.

    It must be thawed whatever happens: writers, unmount and sync wait until then.

    Returns:
        whether this call froze it; if not, somebody else's freeze stands, and is theirs to take back.
    """
    return _freeze(path, _linux.FIFREEZE, "freeze", errno.EBUSY)


def thaw(path: Path) -> None:
    """Let writers of a frozen filesystem go on, after one's own freeze; not frozen is success.

    The kernel does not know whose freeze it is, so the caller has to.
    """
    _freeze(path, _linux.FITHAW, "thaw", errno.EINVAL)


def _freeze(path: Path, request: int, doing: str, already: int) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"{doing} {path}", error) from error
    try:
        # Where nothing is mounted, the filesystem of the directory is the host's own.
        if not _linux.mount_here("", directory=fd)[1]:
            raise errors.HostError(f"{doing} {path}: nothing is mounted there")
        fcntl.ioctl(fd, request, 0)
    except OSError as error:
        if error.errno != already:
            raise _linux.failure(f"{doing} {path}", error) from error
        return False
    finally:
        os.close(fd)
    return True


def usage(path: Path) -> StatVfs:
    """Say how full the filesystem of a path is."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise _linux.failure(f"look at the filesystem of {path}", error) from error
    return StatVfs(
        total_bytes=status.f_blocks * status.f_frsize,
        available_bytes=status.f_bavail * status.f_frsize,
        used_bytes=(status.f_blocks - status.f_bfree) * status.f_frsize,
        total_inodes=status.f_files,
        free_inodes=status.f_ffree,
        used_inodes=status.f_files - status.f_ffree,
    )
