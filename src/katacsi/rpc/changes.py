"""Changes that an RPC asks for: they run to their end, also when the caller has gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from katacsi.rpc.calls import current_call
from katacsi.rpc.status import facts_of, words_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Changes:
    """Runs each change as a task that no cancellation reaches, and knows which of them have not ended.

    grpclib cancels a call when its client goes away and once more at the deadline; a change of the host that
    stops half-way would need a person. So the call may leave, and the change goes on; a shutdown waits for it
    with `drained`.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Count the changes that have not ended."""
        return len(self._running)

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """Await a change; if the caller is cancelled, the change goes on, and the log says how it ended."""
        task = asyncio.create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            # Not asyncio.shield: from Python 3.14 on it complains of an error that no caller is left for.
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_ended_alone)
            raise
        return task.result()

    async def drained(self) -> None:
        """Wait until no change is running, including those that start meanwhile."""
        while self._running:
            await asyncio.wait(self._running)


def _ended_alone(task: asyncio.Task[Any]) -> None:
    """Log how a change ended whose caller had left: the caller's retry will meet the result."""
    if task.cancelled():  # with the event loop itself
        return
    error = task.exception()
    if error is None:
        log.info("finished after its caller had left")
    elif isinstance(error, Exception) and (call := current_call.get(None)):
        log.warning("failed after its caller had left", error=words_of(error, call), **facts_of(error, call))
