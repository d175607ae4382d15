"""What a filesystem has to be before somebody gets it: checked after errors, replayed for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.errors import Damaged, HostError, Precondition
from katacsi.host import block, fsck, journal, mount

if TYPE_CHECKING:
    from katacsi.host.superblock import Superblock
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)


def ensure_checked(volume: NodeVolume, found: Superblock, timeout_s: float) -> None:
    """Check an ext4 that its driver has marked with errors, and repair what needs no person; it blocks.

    Raises:
        Damaged: a person has to decide; nothing was guessed.
    """
    device = volume.device.path
    if mount.of_device(block.device_number(device)):
        return
    try:
        fsck.check_offline(device, found.fs_type, timeout_s=timeout_s)
    except Damaged as error:
        raise Damaged(
            f"{volume}: its kernel driver met errors in the {found.fs_type}. {error.message}"
        ) from error
    log.warning("a filesystem with recorded errors was repaired", volume=str(volume.id), device=str(device))


def ensure_readable(volume: NodeVolume, timeout_s: float) -> None:
    """Replay what a writer that crashed has left, so that a read-only guest can mount it; it blocks.

    Raises:
        Precondition: only a writable mount could do that.
    """
    try:
        journal.ensure_replayed(volume.device.path, timeout_s=timeout_s)
    except HostError as error:
        raise Precondition(f"{volume}: cannot be read as it is: {error.message}") from error
