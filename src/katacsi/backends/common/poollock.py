"""The lock of a pool: it keeps a second katacsi out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.host import locks
from katacsi.host.locks import Held

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Held", "PoolLock"]

#: How long a start waits for a former process to let go; a pod that is replaced takes a moment to end.
TIMEOUT_S = 5.0


class PoolLock:
    """A lock file, from `take` to `release` or to the end of the process."""

    def __init__(self) -> None:
        self._held: int | None = None

    def take(self, path: Path) -> None:
        """Make the file if there is none, and lock it.

        Raises:
            Held: somebody else holds it.
            HostError: it cannot be made.
        """
        self._held = locks.lock_file(path, TIMEOUT_S)

    def release(self) -> None:
        """Let go of the lock; one that is not held is success."""
        held, self._held = self._held, None
        if held is not None:
            locks.unlock(held)
