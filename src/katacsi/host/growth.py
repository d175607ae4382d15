"""Checks filesystems, and grows them to fill their devices; a filesystem of full size is success."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, Unsupported
from katacsi.host import block, command

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

_FSCK_OK: Final = (0, 1)  # fsck(8): 1 is "errors corrected"


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


def check_offline(device: Path, fs_type: str, *, timeout_s: float = 3600.0) -> None:
    """Replay and repair, as far as that needs no person, a filesystem that is not mounted.

    xfs and btrfs are left alone: their log is replayed by the kernel at mount, and their checkers are not
    meant to run before one.

    Raises:
        CommandError: it has errors that a person must look at; nothing was changed by guess.
    """
    if fs_type in _EXT:
        command.run(["e2fsck", "-f", "-p", device], timeout_s=timeout_s, ok=_FSCK_OK)


def grow_offline(device: Path, fs_type: str, *, timeout_s: float = 3600.0) -> None:
    """Grow a filesystem that is not mounted to fill its device, in userspace. It is checked first.

    Raises:
        Unsupported: only ext4 can grow without being mounted.
        CommandError: a tool failed.
    """
    if fs_type not in _EXT:
        raise Unsupported(f"{device}: {fs_type} grows only while it is mounted; ext4 can grow unmounted")
    check_offline(device, fs_type, timeout_s=timeout_s)
    command.run(["resize2fs", device], timeout_s=timeout_s)


def grow_mounted(device: Path, mount_point: Path, fs_type: str) -> None:
    """Grow the filesystem that is mounted there to fill its device, by a request to the kernel.

    Raises:
        Unsupported: nobody here grows this type.
        HostError: the kernel refused; if for want of a capability, its name is in the message.
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
        raise HostError(f"{mount_point}: cannot grow to {size} bytes: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "growing a mounted filesystem needs CAP_SYS_ADMIN, and of ext4 CAP_SYS_RESOURCE, too; "
            "give the container these capabilities"
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


_EXT: Final = ("ext4", "ext3", "ext2")
_REQUESTS: Final[Mapping[str, Callable[[int, int], None]]] = {
    "ext4": _grow_ext4,
    "xfs": _grow_xfs,
    "btrfs": _grow_btrfs,
}
