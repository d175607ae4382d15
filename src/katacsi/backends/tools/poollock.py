"""The lock of a pool: it keeps a second katacsi out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.errors import HostError, PoolUnavailable
from katacsi.host import locks
from katacsi.host.locks import Held

if TYPE_CHECKING:
    from pathlib import Path

#: How long a start waits for a former process to let go; a pod that is replaced takes a moment to end.
TIMEOUT_S = 5.0


class PoolLock:
    """A lock file, from `take` to `release` or to the end of the process."""

    def __init__(self) -> None:
        self._held: int | None = None

    def take(self, path: Path, pool: str, remedy: str = "stop that one") -> None:
        """Make the file if there is none, and lock it; `pool` names the pool and its storage.

        Raises:
            PoolUnavailable: somebody else holds it, or it cannot be made.
        """
        try:
            self._held = locks.lock_file(path, TIMEOUT_S)
        except Held as error:
            raise PoolUnavailable(
                f"{pool} is served by another katacsi, which holds {path} ({error}); {remedy}"
            ) from error
        except HostError as error:
            raise PoolUnavailable(f"{pool} cannot be locked: {error}") from error

    def release(self) -> None:
        """Let go of the lock; one that is not held is success."""
        held, self._held = self._held, None
        if held is not None:
            locks.unlock(held)
