"""Whether the pool takes writes, found out by one for all who ask, and without waiting for ever."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from katacsi.backends.loopfile.pool import LoopfilePool

#: Seconds for which an answer is taken for true: the conditions of a hundred volumes cost one write.
FRESH_S: Final = 5.0
#: Seconds after which a write that has not ended counts as refused.
PATIENCE_S: Final = 2.0


class WriteProbe:
    """Asks a pool, one at a time."""

    def __init__(self, pool: LoopfilePool) -> None:
        self._pool = pool
        self._asking: asyncio.Task[str] | None = None
        self._answered = 0.0

    async def refusal(self) -> str:
        """Say why nothing can be written to the pool; empty: something can, or could a moment ago.

        A write that hangs (a frozen filesystem, a disk that does not answer) holds one thread, however often
        this is asked.
        """
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() - self._answered > FRESH_S):
            asking = self._asking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({asking}, timeout=PATIENCE_S)
        if not done:
            return (
                f"pool {self._pool.name!r}: a write to {self._pool.directory} takes longer than "
                f"{PATIENCE_S:g} s; look whether its filesystem is frozen (fsfreeze -u), or its disk hangs"
            )
        return asking.result()

    async def _ask(self) -> str:
        try:
            return await off_loop(self._pool.refuses_writes)
        finally:
            self._answered = time.monotonic()
