"""Replays the journal of a filesystem that is not mounted, as far as userspace can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.errors import Unsupported
from katacsi.host import command, superblock

if TYPE_CHECKING:
    from pathlib import Path

_FSCK_OK: Final = (0, 1)  # fsck(8): 1 is "errors corrected"
_LOOK_S: Final = 60.0


def ensure_replayed(device: Path, *, timeout_s: float = 3600.0) -> None:
    """Bring a filesystem into a state that can be mounted read-only from a read-only device.

    Raises:
        Unsupported: an xfs whose log only a mount can replay.
        CommandError: the tool failed.
    """
    found = superblock.read(device)
    if found is None:
        return
    if found.fs_type == "xfs" and not is_clean_xfs(device):
        raise Unsupported(
            f"{device}: its xfs was not unmounted cleanly, and only a writable mount can replay its log; "
            "publish it writable once, and stop that pod in order"
        )
    if found.needs_replay:
        command.run(["e2fsck", "-p", "-E", "journal_only", device], timeout_s=timeout_s, ok=_FSCK_OK)


def is_clean_xfs(device: Path) -> bool:
    """Whether the log of an xfs holds nothing to replay."""
    said = command.run(["xfs_logprint", "-t", device], timeout_s=_LOOK_S)
    return b"state: <CLEAN>" in said.stdout
