"""Host changes run to their end, however often the call that started them is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Shielded:
    """Runs coroutines as tasks of their own and knows which of them have not ended.

    grpclib cancels a handler when its client goes away and once more at the deadline; a host change that
    stops half-way would need a person. So a change is a task of its own: the handler may leave, the task
    goes on, and a shutdown waits for it with `drained`.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Count the changes that have not ended."""
        return len(self._running)

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """Await a change; if the caller is cancelled, the change goes on without it."""
        task = asyncio.get_running_loop().create_task(change)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Asking for the outcome keeps asyncio from reporting an error that the caller no longer awaits;
        # the next call for the same volume meets the same fact and reports it.
        if not task.cancelled():
            task.exception()

    async def drained(self) -> None:
        """Wait until no change is running, including those that start meanwhile."""
        while self._running:
            await asyncio.wait(self._running)
