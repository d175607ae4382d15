"""Grows filesystems to fill their devices; a filesystem of full size is success."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, Precondition, Unsupported
from katacsi.host import block, fsck, superblock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from katacsi.host.superblock import Superblock

# include/uapi/linux/fs.h, fs/ext4/ext4.h: _IOW('f', 16, __u64), the new number of blocks
_EXT4_IOC_RESIZE_FS: Final = 0x40086610
# fs/xfs/libxfs/xfs_fs.h: _IOR('X', 100, struct xfs_fsop_geom_v1), _IOW('X', 110, struct xfs_growfs_data)
_XFS_IOC_FSGEOMETRY_V1: Final = 0x80705864
_XFS_IOC_FSGROWFSDATA: Final = 0x4010586E
_XFS_MINIMUM_AG_BLOCKS: Final = 64
# include/uapi/linux/btrfs.h: _IOW(0x94, 3, struct btrfs_ioctl_vol_args), whose name is "max" or a size
_BTRFS_IOC_RESIZE: Final = 0x50009403


#: What the kernel answers again and again: no right, errors found in the filesystem (of ext4 that is EPERM,
#: too), a read-only filesystem, one that cannot grow.
_LASTING: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EROFS, errno.EUCLEAN, errno.EOPNOTSUPP, errno.ENOTTY}
)


def fills(superblock: Superblock, device_size: int) -> bool:
    """Say whether the filesystem has grown as far as a device of this many bytes lets it.

    Raises:
        HostError: the filesystem is larger than its device, which lost its end.
    """
    rest = device_size - superblock.size_bytes
    if rest < 0:
        raise HostError(
            f"the {superblock.fs_type} filesystem {superblock.uuid} of {superblock.size_bytes} bytes lies "
            f"on a device of only {device_size} bytes; do not mount it before the device has its end back"
        )
    return rest < superblock.growth_step


def grow_offline(device: Path, fs_type: str, *, timeout_s: float = 3600.0) -> None:
    """Grow a filesystem that is not mounted to fill its device, in userspace, and prove it sound afterwards.

    The caller has checked it (`fsck.check_offline`), and stored the fact that a growth begins: what a killed
    resize2fs leaves is mended by `fsck.repair_offline`, and must not be mounted before.

    resize2fs ruins an ext4 of one group that it takes beyond the room for descriptors of its mkfs (1024 times
    its size then) in one go: of 125 growths by random factors 10 failed, and 9 of those could not be mounted
    or had lost files; none of 125 failed that stopped there first (e2fsprogs 1.47.0).

    Raises:
        Unsupported: only ext4 can grow without being mounted.
        NotProvenSound: nobody may mount it before `fsck.repair_offline` has mended it.
        HostError: it did not grow; it was checked, and is as sound as before.
    """
    if fs_type not in fsck.EXT:
        raise Unsupported(f"{device}: {fs_type} grows only while it is mounted; ext4 can grow unmounted")
    found = superblock.read(device)
    if found is not None and found.size_bytes < found.reserve_bytes < _end_of(device):
        _resize(device, [f"{found.reserve_bytes // 1024}K"], timeout_s)
    _resize(device, [], timeout_s)


def _end_of(device: Path) -> int:
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{device}: cannot be asked for its size: {error.strerror}") from error


def _resize(device: Path, size: list[str], timeout_s: float) -> None:
    """Grow an ext4 to a size, or to fill its device, and check it."""
    failed: HostError | None = None
    try:
        fsck.patiently(["resize2fs", device, *size], timeout_s=timeout_s)
    except HostError as error:
        failed = error
    try:
        fsck.check_offline(device, "ext4", timeout_s=timeout_s)
    except HostError as unsound:
        raise fsck.not_proven_sound(device, failed or unsound) from unsound
    if failed is not None:
        raise HostError(f"{device}: its ext4 is sound, and could not be grown: {failed.message}") from failed


def grow_mounted(device: Path, mount_point: Path, fs_type: str) -> None:
    """Grow the filesystem that is mounted there to fill its device, by a request to the kernel.

    Raises:
        Unsupported: nobody here grows this type.
        Precondition: the kernel will refuse for as long as it is mounted like this, or by a process like
            this; if for want of a capability, its name is in the message.
        HostError: it failed, and may not fail again.
    """
    if fs_type not in _REQUESTS:
        raise Unsupported(f"{mount_point}: {fs_type} is not grown by katacsi; ext4, xfs and btrfs are")
    size = block.size_bytes(device)
    try:
        descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _REQUESTS[fs_type](descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        family = Precondition if error.errno in _LASTING else HostError
        raise family(f"{mount_point}: cannot grow to {size} bytes: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "growing a mounted filesystem needs CAP_SYS_ADMIN, and of ext4 CAP_SYS_RESOURCE, too (give the "
            "container these capabilities), and an ext4 without errors"
        )
    return os.strerror(error.errno or 0)


def _grow_ext4(descriptor: int, size: int) -> None:
    # resize2fs(8) does the same for a mounted filesystem; the kernel drops a last group that is too small.
    blocks = size // os.fstatvfs(descriptor).f_frsize
    fcntl.ioctl(descriptor, _EXT4_IOC_RESIZE_FS, struct.pack("=Q", blocks))


def _grow_xfs(descriptor: int, size: int) -> None:
    geometry = bytearray(112)
    fcntl.ioctl(descriptor, _XFS_IOC_FSGEOMETRY_V1, geometry)
    block_size, _, ag_blocks, _, _, _, _, inode_percent, present = struct.unpack_from("=8IQ", geometry)
    blocks = size // block_size
    if 0 < blocks % ag_blocks < _XFS_MINIMUM_AG_BLOCKS:
        # Kernels before 5.11 take a rest too small for a group as a wish to shrink.
        blocks -= blocks % ag_blocks
    if blocks > present:
        fcntl.ioctl(descriptor, _XFS_IOC_FSGROWFSDATA, struct.pack("=QII", blocks, inode_percent, 0))


def _grow_btrfs(descriptor: int, size: int) -> None:
    del size  # the kernel measures the device itself
    # A bytearray, since fcntl takes no more than 1024 bytes of a constant.
    fcntl.ioctl(descriptor, _BTRFS_IOC_RESIZE, bytearray(struct.pack("=q4088s", 0, b"max")))


_REQUESTS: Final[Mapping[str, Callable[[int, int], None]]] = {
    "ext4": _grow_ext4,
    "xfs": _grow_xfs,
    "btrfs": _grow_btrfs,
}
