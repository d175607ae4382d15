"""The folder that a run works in; nothing of it stays, in the kernel neither."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "katacsi-bench-"


class Failure(Exception):
    """The measurement cannot go on; the message says why and what to do."""


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a fresh folder on a disk; afterwards nothing of it is left, in the kernel neither."""
    for old in parent.glob(_PREFIX + "*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            clear(old)  # its run was killed
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        clear(folder)


def clear(folder: Path) -> None:
    """Unmount and detach everything below a folder, then remove it."""
    leaks.undo(leaks.leaks_below(folder), lazily=False)
    if left := leaks.settled_leaks_below(folder, patience_s=5):
        raise Failure(f"{folder} stays, for this is still there:\n{left}")
    shutil.rmtree(folder)
