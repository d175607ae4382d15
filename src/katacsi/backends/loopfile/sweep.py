"""What a start does for the objects that a crash left half made or half removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.backends.loopfile.layout import DISK
from katacsi.errors import VolumeInUse
from katacsi.host import files, loop

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.loopfile.layout import ObjectFolder

log = structlog.get_logger(__name__)


def sweep(folder: ObjectFolder) -> None:
    """Remove what never became an object and what is none any more; whole ones lose only temporary files."""
    for left in folder.half_done():
        if not _freed(left / DISK):
            continue
        if folder.discard(left):
            log.info("removed what a crash left", kind=folder.kind, folder=str(left))
        else:
            log.warning("folder stays: it holds files that katacsi did not make", folder=str(left))
    for name in folder.names():
        if folder.is_gone(name) and _freed(folder.disk(name)):
            folder.finish_removal(name)
            log.info("removed what a full pool left", kind=folder.kind, folder=str(folder.home(name)))
        elif folder.home(name).is_dir():
            # Nobody else writes here: the pool's lock is held, and no call was let in yet.
            files.remove_stale_temporaries(folder.home(name), older_than_s=0)


def _freed(disk: Path) -> bool:
    """Take the device of a dying disk away; False: somebody holds it."""
    try:
        if disk.exists():
            loop.ensure_detached(disk)
    except VolumeInUse as error:
        log.warning("folder stays: its device is held", folder=str(disk.parent), why=error.message)
        return False
    return True
