"""Crashes of the lvm backend after each LVM command that changes something, restarts, the call again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
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

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, activations: bool = False) -> None:
        self._left: int | None = None
        self._gone = False
        self.words: list[str] = []
        run = command.run

        def counted(argv, **options):
            if self._gone:
                raise Crash
            changing = str(argv[0]).endswith("lvm") and argv[1] not in READING
            # Activating is no commit: where nothing is real, a crash behind it is one before it.
            changing = changing and (activations or argv[3] != "--activate")
            try:
                return run(argv, **options)
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


@dataclass(frozen=True)
class Case:
    """A call that crashes: `prepare` makes what it needs, `call` is safe to repeat.

    `check` looks at the outcome and cleans up; it is told where the crash was.
    """

    name: str
    start: Callable[[], Awaitable[LvmBackend]]
    prepare: Callable[[LvmBackend], Awaitable[object]]
    call: Callable[[LvmBackend], Awaitable[object]]
    check: Callable[[LvmBackend, str], Awaitable[object]]


async def crash_after(crashes: Crashes, commands: int, case: Case) -> bool:
    """Crash a call after so many commands, and repeat it; tell whether it had so many to crash after."""
    backend = await case.start()
    await case.prepare(backend)
    crashes.arm(commands)
    try:
        await case.call(backend)
    except Crash:
        where = f"{case.name}, after command {commands}: {crashes.words[-1].split(' --config ')[0]}"
    else:
        crashes.disarm()
        await case.check(backend, f"{case.name}, without a crash")
        await bury(backend)
        return False
    await bury(backend)
    crashes.disarm()
    backend = await case.start()
    await case.call(backend)
    await case.check(backend, where)
    await bury(backend)
    return True


async def at_each_command(
    crashes: Crashes,
    start: Callable[[], Awaitable[LvmBackend]],
    prepare: Callable[[LvmBackend], Awaitable[None]],
    call: Callable[[LvmBackend], Awaitable[object]],
    check: Callable[[LvmBackend, str], Awaitable[None]],
) -> int:
    """Crash a call after its first command, its second …, and repeat it each time; say how often."""
    case = Case("", start, prepare, call, check)
    crashed = 0
    while await crash_after(crashes, crashed + 1, case):
        crashed += 1
    return crashed


async def at_each_command_of_some(crashes: Crashes, cases: list[Case]) -> dict[int, str]:
    """Crash after the first command, the second …, each time in another case; say in which after which.

    Which case it is, is chosen by lot, always the same. A case that has no such command any more is left out
    from then on, so each step of the longest is crashed after once, and each case is run to its end.
    """
    lot = random.Random(len(cases))
    left = list(cases)
    crashed: dict[int, str] = {}
    while left:
        step, case = len(crashed) + 1, lot.choice(left)
        if await crash_after(crashes, step, case):
            crashed[step] = case.name
        else:
            left.remove(case)
    return crashed
