# ruff: noqa: PTH102, PTH106, PTH108 -- a target is judged by lstat and errno; pathlib would follow it
"""The files and directories at which volumes are mounted: made, checked for what they are, and removed.

They lie in the kubelet's folders, so nothing is followed, nothing is emptied and nothing foreign removed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux

if TYPE_CHECKING:
    from pathlib import Path


def ensure_target_directory(path: Path, mode: int = 0o750) -> bool:
    """Make the directory to mount at; give whether this call made it. One that is there is left as it is.

    Raises:
        InvalidRequest: the path is a symlink or a file, or its parent directory is absent.
    """
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not stat.S_ISDIR(_mode(path)):
            raise errors.InvalidRequest("target_path", f"{path} is not a directory") from None
        return False
    except OSError as error:
        raise _target_failure(path, error) from error
    return True


def require_nothing_below(path: Path) -> None:
    """Refuse a directory with content as a target: a mount would hide it, and the target could never go.

    Absent, or no directory, is not decided here.

    Raises:
        VolumeInUse: it has content; one name is in the message.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return
        with os.scandir(path) as found:
            first = next(found, None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _linux.failure(f"look into {path}", error) from error
    if first is not None:
        raise errors.VolumeInUse(
            f"{path}: holds {first.name!r} already, which a mount would hide; look into it and empty it"
        )


def ensure_target_file(path: Path, mode: int = 0o600) -> bool:
    """Make the empty file to mount a device at; give whether this call made it.

    A device that is already mounted there looks like a device node, and is as good.

    Raises:
        InvalidRequest: the path is a symlink or a directory, or its parent directory is absent.
        VolumeInUse: a file is there that has content.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
    except FileExistsError:
        present = _mode(path)
        if not (stat.S_ISREG(present) or stat.S_ISBLK(present)):
            raise errors.InvalidRequest("target_path", f"{path} is not a file") from None
        if stat.S_ISREG(present) and os.lstat(path).st_size:
            raise errors.VolumeInUse(
                f"{path}: is a file with content, which a mount would hide; look into it and remove it"
            ) from None
        return False
    except OSError as error:
        raise _target_failure(path, error) from error
    return True


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError as error:
        raise _target_failure(path, error) from error


def _target_failure(path: Path, error: OSError) -> errors.KatacsiError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return errors.InvalidRequest("target_path", f"the parent directory of {path} does not exist")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return errors.InvalidRequest("target_path", f"{path}: {error.strerror}")
    return _linux.failure(f"create {path}", error)


def remove_target(path: Path) -> None:
    """Remove an empty directory or empty file at which nothing is mounted; absent is success.

    Raises:
        VolumeInUse: something is mounted there.
        HostError: it has content, or is neither: something that katacsi did not make, and does not remove.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
            return
        if _linux.mount_here(path)[1]:
            raise _mounted(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise errors.HostError(f"{path} is not an empty file or directory; remove it by hand")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _mounted(path) from error
        if error.errno == errno.ENOTEMPTY:
            raise errors.HostError(
                f"{path} is not empty; katacsi removes no files of others: look into it and empty it by hand"
            ) from error
        if error.errno == errno.ENOTDIR:  # a parent is a file: the path is absent
            return
        raise _linux.failure(f"remove {path}", error) from error


def _mounted(path: Path) -> errors.VolumeInUse:
    return errors.VolumeInUse(f"{path}: something is mounted there; unmount it first")
