"""Gives a copied filesystem a UUID of its own, so that it and its source can be used on one host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from katacsi.errors import HostError, Unsupported
from katacsi.host import block, command, directories, fsck, mount, superblock

#: Where a btrfs is mounted for the moment that its log needs; one directory a device below it.
REPLAY_DIRECTORY: Final = Path("/run/katacsi")
_TIMEOUT_S: Final = 3600.0


def renew(device: Path, fs_type: str, new_uuid: str, *, may_mount: bool) -> None:
    """Change the UUID of a filesystem that is not mounted; it has it already: success.

    An interrupted call is continued by the next one, and the result is read back. btrfs keeps its old UUID
    inside (metadata_uuid), ext4 as the seed of its checksums: both change a superblock and not the whole of
    their metadata.

    xfs keeps its UUID, and who mounts a copy says `nouuid`: `xfs_admin -U` zeroes the log before it writes
    the new UUID, and killed in between (measured: 127 of 150 times) it leaves what nobody can mount.

    Args:
        device: the block device.
        fs_type: `ext4` or `btrfs`.
        new_uuid: in the 36-digit form.
        may_mount: the host's kernel may mount it, which a btrfs needs that was copied while in use.

    Raises:
        Unsupported: its log must be replayed by a mount, and `may_mount` is false; xfs, or an unknown type.
        CommandError: a tool failed.
        HostError: the filesystem still has another UUID afterwards.
    """
    if fs_type not in _CHANGES:
        raise Unsupported(f"{device}: the UUID of {fs_type} is not changed; that of ext4 and btrfs is")
    end_replay(device)
    if _has(device, new_uuid):
        return
    _CHANGES[fs_type](device, new_uuid, may_mount=may_mount)
    if not _has(device, new_uuid):
        raise HostError(f"{device}: the {fs_type} filesystem did not take the UUID {new_uuid}")


def end_replay(device: Path) -> None:
    """Unmount what a replay of the device's log, this one or one that a crash cut off, has mounted."""
    target = _replay_target(device)
    mount.unmount(target)
    directories.ensure_directory_absent(target)


def _renew_ext4(device: Path, new_uuid: str, *, may_mount: bool) -> None:
    del may_mount  # e2fsck replays the journal in userspace
    fsck.check_offline(device, "ext4", timeout_s=_TIMEOUT_S)  # or tune2fs refuses
    # With metadata_csum_seed (Linux 4.4) the new UUID is one write of the superblock. Without it all the
    # copy's metadata would be written anew, and a crash on the way would leave checksums of two kinds.
    seeded = command.run(
        ["tune2fs", "-O", "metadata_csum_seed", "-U", new_uuid, device], timeout_s=_TIMEOUT_S, ok=(0, 1)
    )
    if seeded.returncode:
        # A filesystem without checksums cannot have the seed, and does not need it.
        command.run(["tune2fs", "-U", new_uuid, device], timeout_s=_TIMEOUT_S)


def _renew_btrfs(device: Path, new_uuid: str, *, may_mount: bool) -> None:
    # btrfstune takes a filesystem with a log for clean, and nobody can mount it afterwards.
    if not _is_clean(device):
        _require_mount_allowed(device, "btrfs", may_mount=may_mount, said="there is a log tree")
        # If the source is mounted here, the kernel refuses this one or gives it a passing fsid.
        _replay_log(device, "btrfs", ())
        if not _is_clean(device):
            raise HostError(f"{device}: the log of the btrfs is still there after a mount")
    command.run(["btrfstune", "-f", "-M", new_uuid, device], timeout_s=_TIMEOUT_S)


def _require_mount_allowed(device: Path, fs_type: str, *, may_mount: bool, said: str) -> None:
    if not may_mount:
        raise Unsupported(
            f"{device}: the copy of a {fs_type} that was in use keeps its UUID: only a mount could replay "
            f"its log, and guests' filesystems are not mounted here (guest_filesystems: refuse): {said}"
        )


def _replay_log(device: Path, fs_type: str, flags: tuple[str, ...]) -> None:
    target = _replay_target(device)
    directories.ensure_directory(target)
    mount.mount_filesystem(device, target, fs_type, (*flags, "nosuid", "nodev", "noexec"))
    end_replay(device)


def _replay_target(device: Path) -> Path:
    major, minor = block.device_number(device)
    return REPLAY_DIRECTORY / f"log-replay-{major}-{minor}"


def _is_clean(device: Path) -> bool:
    found = superblock.read(device)
    return found is not None and found.clean


def _has(device: Path, new_uuid: str) -> bool:
    found = superblock.read(device)
    return found is not None and found.uuid == new_uuid


_CHANGES: Final = {"ext4": _renew_ext4, "btrfs": _renew_btrfs}
