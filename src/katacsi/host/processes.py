"""Where the processes of the node are seen.

A container has a /proc of its own, in which the node's processes are not: no guest, no shim, nobody who holds
a volume. It is given the node's own at another path.
"""

from __future__ import annotations

import os
from pathlib import Path

from katacsi.host import _linux

_proc = Path("/proc")


def look_in(proc: Path) -> None:
    """Have the processes looked for in this procfs from now on, by this whole program.

    Raises:
        HostError: it is no procfs, or one in which this process does not occur, so it is not the node's.
    """
    global _proc  # noqa: PLW0603 -- a program runs on one node
    try:
        os.readlink(proc / "self")  # noqa: PTH115 -- where it leads is no path of ours
    except OSError as error:
        raise _linux.failure(f"find this process in {proc}", error) from error
    _proc = proc


def seen_in() -> Path:
    """Give the procfs in which the node's processes are seen."""
    return _proc
