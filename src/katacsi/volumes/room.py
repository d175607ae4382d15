"""Room for so many at once, whether they come in a host thread or on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Room:
    """As asyncio.Semaphore, and a thread may ask, too: it is told at once, and never waits.

    Who waits does so on the event loop, and is let in in turn. Who asks in a thread may overtake nobody.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[bool]:
        """Take a place while the body runs, if one is free; says whether."""
        with self._lock:
            taken = self._free > 0
            self._free -= taken
        try:
            yield taken
        finally:
            if taken:
                self._leave()

    @contextlib.asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """Take a place while the body runs, and wait for it on the event loop."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            turn = self._waiting.popleft()
        turn.get_loop().call_soon_threadsafe(self._let_in, turn)

    def _let_in(self, turn: asyncio.Future[None]) -> None:
        if turn.cancelled():  # the place goes to the next
            self._leave()
        else:
            turn.set_result(None)

    def _withdraw(self, turn: asyncio.Future[None]) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        if not turn.cancelled():  # it was let in, and cancelled before it could enter
            self._leave()
