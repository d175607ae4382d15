# ruff: noqa: PTH108 -- extents, leases and clones need descriptors; pathlib has none
"""Files that stand for disks: made at a size, grown, cloned, copied, and asked what they hold.

A crash leaves such a file absent, or there under a name that the caller still treats as unfinished: names
that count are given with `directories.rename`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux, processor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: A cloning filesystem that cannot clone *these two* answers with one of these (ioctl_ficlone(2)).
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})

#: Where copy_file_range(2) answers with one of these, bytes are copied by sendfile(2).
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

#: Bytes per copying call: progress is reported, and a caller may give up, after each.
_COPY_BYTES = 64 << 20

#: Filesystems whose write lease counts every open of the file, a loop device's included. On others (overlay:
#: the loop device opens the file below; network: another node may) being granted one proves nothing.
_LEASE_IS_PROOF = frozenset(
    {_linux.EXT4_SUPER_MAGIC, _linux.XFS_SUPER_MAGIC, _linux.BTRFS_SUPER_MAGIC, _linux.TMPFS_MAGIC}
)


def create_sized(path: Path, size: int, *, thick: bool) -> None:
    """Make a new file of `size` bytes that reads as zero: sparse, or with all its blocks reserved.

    A power cut may take it away again until the caller has called `make_durable`.

    Raises:
        AlreadyExists: something has that name.
        OutOfSpace: the blocks cannot be reserved; no file is left.
    """
    fd = _create(path)
    try:
        try:
            if thick and size:
                _linux.fallocate(fd, 0, 0, size)
            os.ftruncate(fd, size)
        except BaseException:
            os.unlink(path)
            raise
    except OSError as error:
        raise _sizing_failure(f"create {path} with {size} bytes", error) from error
    finally:
        os.close(fd)


def make_durable(folder: Path) -> None:
    """Make a folder of files outlast a power cut: what they hold, their sizes, and their names.

    The folder's own name is made to last by whoever gives it, with `rename`.

    Each fsync is needed: that of a file is promised to reach its content and its size, that of the folder
    the names in it, and neither is promised to do the other's work (fsync(2)). Called when all is written,
    the first one commits the journal of ext4 and xfs for all of them, and the others find little to do.
    """
    try:
        files = [entry.path for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        for file in files:
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        _linux.sync_directory(folder)
    except OSError as error:
        raise _linux.failure(f"make {folder} durable", error) from error


def grow_file(path: Path, size: int, *, thick: bool) -> int:
    """Make the file at least `size` bytes long and give its length; it never gets shorter.

    Thick reserves the new blocks first and sets the length last, so a file has either length and no other.

    Raises:
        OutOfSpace: the blocks cannot be reserved; length and blocks are as before.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"grow {path}", error) from error
    try:
        present = os.fstat(fd).st_size
        if present >= size:
            return present
        if thick:
            try:
                _linux.fallocate(fd, _linux.FALLOC_FL_KEEP_SIZE, present, size - present)
            except OSError:
                os.ftruncate(fd, present)  # gives back what was reserved beyond the end
                raise
        os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError as error:
        raise _sizing_failure(f"grow {path} to {size} bytes", error) from error
    else:
        return size
    finally:
        os.close(fd)


def _sizing_failure(doing: str, error: OSError) -> errors.KatacsiError:
    if error.errno == errno.EFBIG:
        return errors.SizeOutOfRange(f"{doing}: the filesystem has no files that large")
    if error.errno == errno.EEXIST:
        return errors.AlreadyExists(f"{doing}: the name is taken")
    return _linux.failure(doing, error)


def has_data(path: Path) -> bool:
    """Whether any byte of the file may be other than zero; False is proof that the whole file reads as zero.

    Reserved blocks that were never written count as zero. Bytes in the page cache of a loop device are not
    in its file yet: the answer holds for a file whose device is detached, or was synced.

    Source: lseek(2), SEEK_DATA; a filesystem without extents to show answers "data" for every byte.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"look for data in {path}", error) from error
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise _linux.failure(f"look for data in {path}", error) from error
    else:
        return True
    finally:
        os.close(fd)


def clone_file(src: Path, dst: Path) -> bool:
    """Make `dst` a new file that shares the blocks of `src`; False: not possible here, and dst is absent.

    Raises:
        AlreadyExists: dst exists.
        OutOfSpace: no room even for the extent list; dst is absent.
    """
    source = _open_source(src)
    try:
        fd = _create(dst)
        try:
            fcntl.ioctl(fd, _linux.FICLONE, source)
            os.fsync(fd)
            _linux.sync_directory(dst.parent)
        except OSError as error:
            os.unlink(dst)
            if error.errno in _NO_CLONE:
                return False
            raise _linux.failure(f"clone {src} to {dst}", error) from error
        else:
            return True
        finally:
            os.close(fd)
    finally:
        os.close(source)


def can_clone(file: Path) -> bool:
    """Whether the filesystem of a file can share blocks, without taking room for it.

    Asked to clone a file onto itself, one that can answers that the ranges overlap (ioctl_ficlone(2)).
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _linux.FICLONE, fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return True
        if error.errno in _NO_CLONE:
            return False
        raise _linux.failure(f"clone {file} onto itself", error) from error
    return True


def copy_file(
    src: Path, dst: Path, on_progress: Callable[[int, int], None] | None = None, *, thick: bool = False
) -> None:
    """Make `dst` a new file with the bytes of `src`: holes stay holes, and blocks may be shared.

    Thick: it has all its blocks, and shares none with the source.

    `on_progress(done, total)` hears, after every 64 MiB or extent, how far into the file the copy is, in
    bytes; what it raises ends the copy. However the copy ends early, dst is absent.

    Raises:
        AlreadyExists: dst exists.
        OutOfSpace: no room.
    """
    source = _open_source(src)
    try:
        fd = _create(dst)
        try:
            size = os.fstat(source).st_size
            if thick and size:
                _linux.fallocate(fd, 0, 0, size)
            os.ftruncate(fd, size)
            # copy_file_range shares blocks on xfs and btrfs; then each later write needs room for a new one.
            copy_some = _write_some if thick else _copy_some
            with processor.anywhere():
                _copy_extents(source, fd, size, copy_some, on_progress)
                os.fsync(fd)
            _linux.sync_directory(dst.parent)
        except BaseException:
            os.unlink(dst)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise _sizing_failure(f"copy {src} to {dst}", error) from error
    finally:
        os.close(source)


def _copy_extents(
    source: int,
    target: int,
    size: int,
    copy_some: Callable[[int, int, int, int], int],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        end = min(os.lseek(source, position, os.SEEK_HOLE), size)
        while position < end:
            copied = copy_some(source, target, position, min(end - position, _COPY_BYTES))
            if copied == 0:
                raise OSError(errno.EIO, "the file got shorter while it was copied")
            position += copied
            if on_progress:
                on_progress(position, size)
    if on_progress:
        on_progress(size, size)


def _copy_some(source: int, target: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
    return _write_some(source, target, offset, length)


def _write_some(source: int, target: int, offset: int, length: int) -> int:
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, length)


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _sizing_failure(f"create {path}", error) from error


def _open_source(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"read {path}", error) from error


# -- who has a file open -------------------------------------------------------------------------------


def is_shared(fd: int) -> bool | None:
    """Whether anybody else has an open file open, too; False is proof that no process and no loop device has.

    None: this filesystem, or our rights, allow no proof. It takes one probe of the file, no search.

    Source: fcntl(2), F_SETLEASE: a write lease is granted only while there is no other open descriptor, and
    a loop device holds one in the kernel (measured on ext4, xfs, btrfs and tmpfs; fs/locks.c).

    Raises:
        OSError: as the kernel gave it; the caller knows the name.
    """
    if _linux.filesystem_magic(fd) not in _LEASE_IS_PROOF:
        return None
    # Whoever opens the file during these microseconds waits, and we are sent a signal; the default one,
    # SIGIO, would end the process.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        if error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return None  # not the owner and no CAP_LEASE, leases switched off, or unknown here
        raise
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
