"""How a backend learns that the process is to end, in a coroutine or in a thread."""

from __future__ import annotations

import asyncio
import threading

from katacsi.errors import StillWorking


class StopSignal:
    """Set once, when the process is told to end; then `timeouts.drain` is left for what runs.

    After that the process is gone, whatever a thread still does: what is cut there has to be resumed by the
    next start, as after a crash. Long work asks now and then, and stops where it can go on later.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._told: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def set(self) -> None:
        """Tell everybody; from any thread."""
        with self._lock:
            self._stopping.set()
            for loop, told in self._told:
                loop.call_soon_threadsafe(told.set)
            self._told.clear()

    def is_set(self) -> bool:
        """Whether the process is to end."""
        return self._stopping.is_set()

    def sleep(self, seconds: float) -> bool:
        """Wait in a thread, no longer than until the process is to end; whether it is."""
        return self._stopping.wait(seconds)

    async def wait(self) -> None:
        """Wait in a coroutine until the process is to end."""
        told = asyncio.Event()
        with self._lock:
            if self._stopping.is_set():
                return
            entry = (asyncio.get_running_loop(), told)
            self._told.add(entry)
        try:
            await told.wait()
        finally:
            with self._lock:
                self._told.discard(entry)

    def check(self, doing: str) -> None:
        """Leave long work where the process is to end; to be called where it can be resumed.

        Args:
            doing: the object and the work, such as "volume v1:…: wiping".

        Raises:
            StillWorking: it is.
        """
        if self.is_set():
            raise StillWorking(f"{doing}: stopped, because katacsi ends; the next start goes on with it")
