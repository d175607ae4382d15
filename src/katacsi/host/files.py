# ruff: noqa: PTH104, PTH108, PTH118, PTH120 -- descriptors, O_ flags and errno decide here; pathlib has none of them
"""Records on disk, each left whole by a crash at any point.

Directories are the work of `directories`, disk images of `sizedfiles`, locks of `locks`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat
import time
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux
from katacsi.host.directories import ensure_directory, list_directory

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ensure_absent",
    "ensure_directory",
    "list_directory",
    "overwrite",
    "read",
    "remove_stale_temporaries",
    "write_again",
    "write_atomically",
    "write_atomically_via",
]

#: Temporary files are named by this and what no other process uses; the final name could be too long for a
#: prefix.
TEMPORARY_PREFIX = ".tmp-"
_OURS = secrets.token_hex(4)
_numbers = itertools.count()

_READ_BYTES = 1 << 16


# -- records -------------------------------------------------------------------------------------------


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Make the file hold exactly this, so that a reader or a crash meets the old or the new content.

    `durable=False` saves the fsyncs where a power cut takes the whole filesystem with it (tmpfs).

    Raises:
        OutOfSpace: the filesystem is full; the old content stands.
    """
    _replace(path, data, os.path.dirname(path), mode, durable=durable)


def write_atomically_via(path: Path, data: bytes, *, temporary_directory: Path, mode: int = 0o600) -> None:
    """Do what `write_atomically` does, with the temporary file in another directory of the same filesystem.

    For directories in which a foreign reader takes every entry for its own (Kata's record).
    """
    _replace(path, data, temporary_directory, mode, durable=True)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put these bytes over others that the file has, durably, whatever else it holds.

    All of them or none outlast a power cut, if they lie in one sector of 512 bytes. The file keeps its
    length, so this waits for the disk alone and not for the filesystem's journal.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size < offset + len(data):
                raise errors.HostError(f"overwrite {path}: it is no file with {offset + len(data)} bytes")
            if os.pwrite(fd, data, offset) != len(data):
                raise errors.HostError(f"overwrite {path}: the disk took a part of it only")
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"overwrite {path}", error) from error


def write_again(path: Path) -> None:
    """Write what a file reads as over itself, so that the next fsync of it is a proof.

    After a write-back that failed, ext4 and xfs call a page clean that never reached the disk, and an fsync
    of somebody who opens the file later succeeds (fsync(2), EIO). Nobody else may be writing meanwhile.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.pread(fd, os.fstat(fd).st_size, 0)
            if os.pwrite(fd, data, 0) != len(data):
                raise errors.HostError(f"write {path} again: the disk took a part of it only")
        finally:
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"write {path} again", error) from error


def _replace(path: Path, data: bytes, temporary_directory: Path | str, mode: int, *, durable: bool) -> None:
    unique = f"{os.getpid():x}-{_OURS}-{next(_numbers)}"
    temporary = os.path.join(temporary_directory, TEMPORARY_PREFIX + unique)
    try:
        try:
            _write_new(temporary, data, mode, durable=durable)
            os.rename(temporary, path)
        except BaseException:
            _unlink_if_there(temporary)
            raise
        if durable:
            _linux.sync_directory(os.path.dirname(path))
    except OSError as error:
        raise _linux.failure(f"write {path}", error) from error


def _write_new(path: str, data: bytes, mode: int, *, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)  # whatever the umask
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _unlink_if_there(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_stale_temporaries(directory: Path, *, older_than_s: float = 600.0) -> int:
    """Remove temporary files that a crash left behind; give their number.

    No write takes minutes, so age tells a leftover from the file of a writer at work.
    """
    removed = 0
    for name in list_directory(directory):
        if not name.startswith(TEMPORARY_PREFIX):
            continue
        try:
            status = os.lstat(directory / name)
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > older_than_s:
                os.unlink(directory / name)
                removed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _linux.failure(f"remove {directory / name}", error) from error
    return removed


def read(path: Path) -> bytes | None:
    """Give a regular file's content; None means that it was proven absent.

    Whether the directory is the right one (a pool that is not mounted looks empty) is for the caller to know.
    """
    try:
        # O_NONBLOCK: opening a FIFO that somebody put into a shared directory would never return.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _linux.failure(f"read {path}", error) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise errors.HostError(f"read {path}: it is not a regular file")
        data = os.read(fd, status.st_size + 1)
        if len(data) == status.st_size:
            return data
        chunks = [data]  # it grows meanwhile, or tells no size, as in /proc
        while chunk := os.read(fd, _READ_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError as error:
        raise _linux.failure(f"read {path}", error) from error
    finally:
        os.close(fd)


def ensure_absent(path: Path) -> None:
    """Unlink a file or symlink; absent is success."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _linux.failure(f"remove {path}", error) from error
