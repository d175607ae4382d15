"""Kernel calls that the standard library lacks, and how their failures become katacsi's errors.

Everything here is private to `katacsi.host`. A call raises `OSError`; the public modules translate.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from typing import TypeAlias

from katacsi import errors

StrPath: TypeAlias = str | os.PathLike[str]

_libc = ctypes.CDLL(None, use_errno=True)  # a call through CDLL lets go of the GIL

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000

# -- mounts: <linux/mount.h>, <linux/stat.h> --------------------------------------------------------------

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_SILENT = 1 << 15
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70  # a field, not a flag: it is cleared as a whole before one of its values is set
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# These numbers are the same on every architecture that katacsi can run on (asm-generic since Linux 5.1).
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_STATX_TYPE = 0x1
_STATX_MNT_ID = 0x1000
_STATX_ATTR_MOUNT_ROOT = 0x2000
_STATX_SIZE = 256

# -- files: <linux/fs.h>, <linux/falloc.h>, <linux/magic.h> -----------------------------------------------

FICLONE = 0x40049409
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
FALLOC_FL_KEEP_SIZE = 1
RENAME_NOREPLACE = 1

EXT4_SUPER_MAGIC = 0xEF53
XFS_SUPER_MAGIC = 0x58465342
BTRFS_SUPER_MAGIC = 0x9123683E
TMPFS_MAGIC = 0x01021994

_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
_libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    """`struct mount_attr`, version 0."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def mount(source: str, target: str, fs_type: str, flags: int, data: str) -> None:
    """Mount a filesystem with the classic system call."""
    _checked(
        _libc.mount(os.fsencode(source), os.fsencode(target), fs_type.encode(), flags, os.fsencode(data))
    )


def umount(target: StrPath) -> None:
    """Take one mount off the target with umount2(2), which never follows a symlink at its end."""
    _checked(_libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW))


def clone_mount(source: StrPath) -> int:
    """Give the descriptor of a detached copy of the mount at source (a bind mount not yet in the tree)."""
    return _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_OPEN_TREE),
            ctypes.c_long(AT_FDCWD),
            ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_ulong(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC),
        )
    )


def attach_mount(mount_fd: int, target_fd: int) -> None:
    """Put a detached mount into the tree, at the file or directory that is open as target_fd."""
    _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_MOVE_MOUNT),
            ctypes.c_long(mount_fd),
            ctypes.c_char_p(b""),
            ctypes.c_long(target_fd),
            ctypes.c_char_p(b""),
            ctypes.c_ulong(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
        )
    )


def set_mount_attributes(fd: int, path: StrPath, *, add: int, remove: int) -> None:
    """Change flags of one mount and leave its others as they are (a classic bind remount resets those)."""
    attributes = _MountAttr(attr_set=add, attr_clr=remove)
    encoded = os.fsencode(path)
    _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_MOUNT_SETATTR),
            ctypes.c_long(fd),
            ctypes.c_char_p(encoded),
            ctypes.c_ulong(AT_SYMLINK_NOFOLLOW if encoded else AT_EMPTY_PATH),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        )
    )


def mount_here(path: StrPath, *, directory: int = AT_FDCWD) -> tuple[int, bool]:
    """Say in which mount a path lies, by mount id, and whether the path is that mount's root.

    An empty path means the descriptor `directory` itself. A symlink at the end is not followed.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    encoded = os.fsencode(path)
    flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (0 if encoded else AT_EMPTY_PATH)
    _checked(_libc.statx(directory, encoded, flags, _STATX_MNT_ID, buffer))
    raw = buffer.raw
    # struct statx: stx_attributes at 8, stx_attributes_mask at 56, stx_mnt_id at 144; both since Linux 5.8.
    if not int.from_bytes(raw[56:64], "little") & _STATX_ATTR_MOUNT_ROOT:
        raise OSError(errno.ENOSYS, "statx does not report mount roots; Linux 5.8 or newer is needed")
    return int.from_bytes(raw[144:152], "little"), bool(
        int.from_bytes(raw[8:16], "little") & _STATX_ATTR_MOUNT_ROOT
    )


def block_device_at(path: StrPath, *, directory: int = AT_FDCWD) -> tuple[int, int] | None:
    """Give (major, minor) of the block device node that a path leads to; None where it is something else.

    A relative path begins at the directory that is open as a descriptor.

    No server is asked, so a file on a network filesystem that is gone does not hang us.
    """
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC
    _checked(_libc.statx(directory, os.fsencode(path), flags, _STATX_TYPE, buffer))
    # struct statx: u16 stx_mode at 28, u32 stx_rdev_major and stx_rdev_minor at 128.
    mode, major, minor = struct.unpack_from("=H", buffer, 28)[0], *struct.unpack_from("=II", buffer, 128)
    return (major, minor) if stat.S_ISBLK(mode) else None


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Reserve blocks, again where a signal interrupted it; never by glibc's emulation, which writes them."""
    while True:
        try:
            _checked(_libc.fallocate(fd, mode, offset, length))
        except InterruptedError:
            continue
        return


def rename_noreplace(source: StrPath, target: StrPath) -> None:
    """Rename and fail with EEXIST where the target exists, in one step."""
    _checked(_libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE))


def filesystem_magic(fd: int) -> int:
    """Give the magic number of the filesystem a descriptor lies on."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, buffer))
    width = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(buffer.raw[:width], "little") & 0xFFFFFFFF


def is_zero(buffer: ctypes.Array[ctypes.c_char], length: int) -> bool:
    """Whether the first `length` bytes are all zero; compared in place, in C."""
    if length == 0:
        return True
    address = ctypes.addressof(buffer)
    return buffer[0] == b"\0" and _libc.memcmp(address, address + 1, length - 1) == 0


def sync_directory(path: StrPath) -> None:
    """Make the entries of a directory outlast a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Held(errors.HostError):
    """Somebody else has the lock."""


def flock_within(fd: int, path: StrPath, timeout_s: float) -> None:
    """Take the flock of an open file, by patient asking; flock(2) itself knows no timeout."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise Held(
                    f"lock {os.fspath(path)}: held by somebody else for {timeout_s:g} s; see /proc/locks"
                ) from error
        else:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)


def failure(doing: str, error: OSError) -> errors.KatacsiError:
    """Turn an errno into the class that says whether another node or a retry helps."""
    message = f"{doing}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.OutOfSpace(message)
    return errors.HostError(message)
