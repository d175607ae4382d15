"""Crashes of the lvm backend after each LVM command that changes something, restarts, the call again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from katacsi.host import command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from katacsi.backends.lvm import LvmBackend

READING = {"fullreport", "vgs"}


class Crash(BaseException):
    """The process is gone."""


class Crashes:
    """Lets so many changing LVM commands happen; the next step of the process is not taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self._gone = False
        self.words: list[str] = []
        run = command.run

        async def counted(argv, **options):
            if self._gone:
                raise Crash
            # Activating is no commit: a crash before it is one after the former command.
            changing = str(argv[0]).endswith("lvm") and argv[1] not in READING and argv[3] != "--activate"
            try:
                return await run(argv, **options)
            finally:
                if changing:
                    self._count(" ".join(map(str, argv[1:])))

        monkeypatch.setattr(command, "run", counted)

    def _count(self, words: str) -> None:
        self.words.append(words)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._gone = True
                raise Crash

    def arm(self, commands: int) -> None:
        """Let this many changing commands happen from now on."""
        self._left, self._gone, self.words = commands, False, []

    def disarm(self) -> None:
        """Let everything happen, as after a restart; say nothing of what was before."""
        self._left, self._gone = None, False


async def bury(backend: LvmBackend) -> None:
    """Do for a dead process what the kernel does: its threads, its locks are gone."""
    tasks = [*backend._background, *backend._snapshots._copying.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    backend._group.close()


async def at_each_command(
    crashes: Crashes,
    start: Callable[[], Awaitable[LvmBackend]],
    prepare: Callable[[LvmBackend], Awaitable[None]],
    call: Callable[[LvmBackend], Awaitable[object]],
    check: Callable[[LvmBackend, str], Awaitable[None]],
) -> int:
    """Crash a call after its first command, its second …, and repeat it each time; give how often it crashed.

    `prepare` makes what the call needs, `call` is safe to repeat, `check` looks at the outcome and cleans up;
    it is told where the crash was.
    """
    crashed = 0
    while True:
        backend = await start()
        await prepare(backend)
        crashes.arm(crashed + 1)
        try:
            await call(backend)
        except Crash:
            where = f"after command {crashed + 1}: {crashes.words[-1].split(' --config ')[0]}"
        else:
            crashes.disarm()
            await check(backend, "without a crash")
            await bury(backend)
            return crashed
        await bury(backend)
        crashes.disarm()
        crashed += 1
        backend = await start()
        await call(backend)
        await check(backend, where)
        await bury(backend)
