"""Which capabilities a volume can have, whoever asks: at creation, at validation, at stage and publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import InvalidRequest, Precondition, SizeOutOfRange
from katacsi.host import fsoptions, mkfs
from katacsi.model import AccessType
from katacsi.volumes import parameters
from katacsi.volumes.publish.mode import Asked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from katacsi.backends.api import Volume
    from katacsi.model import Capability

#: What the host mounts, and what the stock Kata guest kernel has.
HOST_FILESYSTEMS = ("ext4", "xfs", "btrfs")
DIRECT_FILESYSTEMS = ("ext4", "xfs")


def check(capability: Capability, asked: Asked) -> None:
    """Refuse what no volume of this driver can be.

    Raises:
        InvalidRequest: a multi-node mode, a filesystem that is not made here, or not by Kata's guest.
    """
    if not capability.access_mode.single_node:
        raise InvalidRequest(
            "volume_capability.access_mode",
            f"{capability.access_mode.value} is not possible: the volume is one block device, and a second "
            "node would corrupt it; use ReadWriteOnce or ReadWriteOncePod",
        )
    if capability.access_type is AccessType.BLOCK or not capability.fs_type:
        return
    if capability.fs_type not in HOST_FILESYSTEMS:
        raise InvalidRequest(
            "volume_capability.mount.fs_type",
            f"{capability.fs_type!r} is not one of {', '.join(HOST_FILESYSTEMS)}",
        )
    if asked is Asked.DIRECT:
        require_direct_filesystem(capability.fs_type)


def require_direct_filesystem(fs_type: str) -> None:
    """Refuse a filesystem that the guest could not mount.

    Raises:
        InvalidRequest: with those it can.
    """
    if fs_type not in DIRECT_FILESYSTEMS:
        raise InvalidRequest(
            "volume_capability.mount.fs_type",
            f"{fs_type} is not in Kata's guest kernel; a direct volume takes "
            f"{' or '.join(DIRECT_FILESYSTEMS)}",
        )


def check_mount_flags(capability: Capability, fs_type: str) -> None:
    """Refuse mount options that would fail each mount of the filesystem, here or in a guest.

    Raises:
        InvalidRequest: with those that are legal.
    """
    if capability.access_type is AccessType.MOUNT:
        fsoptions.check(capability.mount_flags, fs_type)


def filesystem_of(capabilities: Iterable[Capability], default: str) -> str:
    """Give the filesystem that a new volume is meant for; "" when it is only ever a raw block device.

    Raises:
        InvalidRequest: the capabilities name two.
    """
    mounts = [c for c in capabilities if c.access_type is AccessType.MOUNT]
    if not mounts:
        return ""
    named = {c.fs_type for c in mounts if c.fs_type}
    if len(named) > 1:
        raise InvalidRequest("volume_capabilities", f"name two filesystems: {', '.join(sorted(named))}")
    return named.pop() if named else default


def filesystem_for(volume: Volume, capability: Capability, default: str) -> str:
    """Give the filesystem that a call means: the one it names, else what the volume has or was made for."""
    return (
        capability.fs_type
        or volume.facts.fs_type
        or volume.attributes.get(parameters.FILESYSTEM, "")
        or default
    )


def check_size(fs_type: str, size_bytes: int) -> None:
    """Refuse a size in which the filesystem cannot be made.

    Raises:
        SizeOutOfRange: with the least size.
    """
    if fs_type and 0 < size_bytes < (least := least_size(fs_type)):
        raise SizeOutOfRange(
            f"{size_bytes} bytes are too few for {fs_type}; it needs at least {least} bytes ({least >> 20} "
            "MiB)"
        )


def check_kind(volume: Volume, capability: Capability) -> None:
    """Refuse to use a formatted volume raw, or a raw volume as a filesystem, where bytes would be lost.

    Raises:
        Precondition: with the kind the volume has.
    """
    if capability.access_type is AccessType.MOUNT and volume.facts.raw_written:
        raise Precondition(
            f"volume {volume.id}: a workload had it as a raw block device, so what is on it is no "
            "filesystem of katacsi's; use it with volumeMode Block"
        )
    if (
        capability.access_type is AccessType.BLOCK
        and volume.attributes.get(parameters.FILESYSTEM)
        and volume.facts.fs_type
    ):
        raise Precondition(
            f"volume {volume.id}: holds a {volume.facts.fs_type} filesystem and cannot be used as a raw "
            "block device; use it with volumeMode Filesystem"
        )


def least_size(fs_type: str) -> int:
    """Give the least number of bytes in which the filesystem can be made; 0 for a raw volume."""
    return mkfs.minimum_size(fs_type) if fs_type else 0


def check_mkfs_options(fs_type: str, options: str) -> None:
    """Refuse options that mkfs must not be given; a raw volume has no mkfs, whatever its StorageClass says.

    Raises:
        InvalidRequest: with those that are legal.
    """
    if not fs_type:
        return
    try:
        mkfs.validate_options(fs_type, options)
    except ValueError as error:
        raise InvalidRequest(f"parameters[{parameters.MKFS_OPTIONS}]", str(error)) from error
