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
        loop = asyncio.get_running_loop()
        # Not asyncio.shield: it hears of the end by a callback of the task, one turn of the loop later.
        outcome: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(self._into(outcome, change))
        self._running.add(task)
        task.add_done_callback(lambda _: self._ended(task, outcome))
        return await outcome

    def _ended(self, task: asyncio.Task[None], outcome: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        outcome.cancel()  # where the task was cancelled before it began; else it is done already

    async def _into(self, outcome: asyncio.Future[T], change: Coroutine[Any, Any, T]) -> None:
        """Run a change and tell its outcome to whoever still awaits it.

        An error that nobody awaits is dropped: the next call for the same volume meets the same fact.
        """
        try:
            result = await change
        except asyncio.CancelledError:
            outcome.cancel()
            raise
        except BaseException as error:
            if not outcome.done():
                outcome.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            if not outcome.done():
                outcome.set_result(result)
        finally:
            if task := asyncio.current_task():
                self._running.discard(task)

    async def drained(self) -> None:
        """Wait until no change is running, including those that start meanwhile."""
        while self._running:
            await asyncio.wait(self._running)
