"""Many volumes at once, with callers that ask twice, give up and ask again, and a driver that may be killed.

Nothing leaks and nothing is lost: that is counted at the end, in files, records, facts, mounts, loop
devices, descriptors and processes, and in the bytes that the workloads wrote. The seed is printed; set
KATACSI_TEST_SEED to repeat a run.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from katacsi.csi.client import RpcError
from support import observed, order
from support.lifecycle import MIB, Life
from support.zygote import Zygote, ZygoteDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.timeout(600)

LIVES = 200
LIVES_WITH_KILLS = 120
AT_ONCE = 16

#: How a volume is used, and how often of a hundred. All kinds of filesystems in all ways there are.
KINDS = {
    ("direct", "ext4"): 40,
    ("host", "ext4"): 20,
    ("host", "xfs"): 10,
    ("direct", "xfs"): 10,
    ("host", "btrfs"): 5,
    ("block", ""): 15,
}
#: A mounted ext4 grows only where CAP_SYS_RESOURCE is had, a guest's xfs not at all.
GROWING = {("direct", "ext4"), ("host", "xfs"), ("block", "")}
THICK = {"loopfile.katacsi.io/allocation": "thick"}

#: A sidecar waits before it asks again, the kubelet too; here less, so that more meets.
_PAUSE_S = 0.02
#: A call that is refused for so long is refused for good.
_PATIENCE_S = 60.0


@dataclass
class Callers:
    """The sidecars and the kubelet: they repeat what was refused for now, and some ask twice or give up.

    Args:
        may_fail: whether calls may end because the driver died, or because a tool of a dead one still works.
    """

    driver: ZygoteDriver
    random: random.Random
    may_fail: bool = False
    up: asyncio.Event = field(default_factory=asyncio.Event)
    seen: collections.Counter[str] = field(default_factory=collections.Counter)

    async def call(self, what: Callable[[], Awaitable[Any]]) -> Any:
        """Bring a call to its success."""
        chance = self.random.random()
        if chance < 0.15:
            return await self._twice(what)
        if chance < 0.30:
            await self._given_up(what)
        return await self._until_done(what)

    async def _twice(self, what: Callable[[], Awaitable[Any]]) -> Any:
        self.seen["asked twice"] += 1
        answers = await asyncio.gather(self._until_done(what), self._until_done(what))
        assert answers[0] == answers[1], f"two answers to one question: {answers}"
        return answers[0]

    async def _given_up(self, what: Callable[[], Awaitable[Any]]) -> None:
        self.seen["given up"] += 1
        task = asyncio.ensure_future(self._once(what))
        await asyncio.sleep(self.random.random() * 0.03)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            self.seen["given up in time"] += 1
        except RpcError as error:
            self._must_be_passing(error)

    async def _until_done(self, what: Callable[[], Awaitable[Any]]) -> Any:
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await self._once(what)
            except RpcError as error:
                self._must_be_passing(error)
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_PAUSE_S * (0.5 + self.random.random()))

    async def _once(self, what: Callable[[], Awaitable[Any]]) -> Any:
        await self.up.wait()
        self.seen["calls"] += 1
        return await what()

    def _must_be_passing(self, error: RpcError) -> None:
        """Raise an error that a caller would not simply meet by asking again."""
        # A process that makes a mount namespace of its own, such as another test, holds all mounts in it.
        held = error.code == "FAILED_PRECONDITION" and "is mounted or held open" in error.message
        died = self.may_fail and error.code in {"UNAVAILABLE", "INTERNAL", "CANCELLED", "FAILED_PRECONDITION"}
        self.seen[error.code] += 1
        if error.code != "ABORTED" and not held and not died:
            raise error


async def live(callers: Callers, number: int, chance: random.Random, *, copy_xfs: bool = True) -> str:
    """Lead one volume through its life, with a detour or two; give its kind."""
    call = callers.call
    way, fs_type = chance.choices(list(KINDS), list(KINDS.values()))[0]
    parameters = THICK if chance.random() < 0.2 else {}
    life = Life(callers.driver, f"life-{number}", way, fs_type, parameters=parameters)
    await call(life.create)
    await call(life.stage)
    await call(life.publish)
    await asyncio.to_thread(life.write)
    if (way, fs_type) in GROWING and chance.random() < 0.3:
        grown = life.size + 16 * MIB
        answer = await call(lambda: life.expand(grown))
        assert answer.capacity_bytes == grown
        await asyncio.to_thread(life.assert_holds)
    await call(life.unpublish)
    if chance.random() < 0.25 and (copy_xfs or fs_type != "xfs"):
        await _copy(callers, life, chance)
    if chance.random() < 0.5:
        await call(life.unstage)
        await call(life.stage)
    await call(life.publish)
    await asyncio.to_thread(life.assert_holds)
    await asyncio.to_thread(life.write, 1)
    await asyncio.to_thread(life.assert_holds, 1)
    await call(life.unpublish)
    await call(life.unstage)
    await call(life.delete)
    life.forget_folders()
    return f"{way} {fs_type}".strip()


async def _copy(callers: Callers, life: Life, chance: random.Random) -> None:
    """Keep the volume's bytes in a snapshot, and make another volume of it."""
    call = callers.call
    snapshot_id = (await call(life.snapshot)).snapshot.snapshot_id
    copy = Life(
        callers.driver,
        f"copy-of-{life.name}",
        life.way,
        life.fs_type,
        # A guest's xfs cannot be made larger.
        size=(await _size(life)) + (16 * MIB if chance.random() < 0.5 and life.fs_type != "xfs" else 0),
        parameters=life.parameters,
    )
    await call(lambda: copy.create(snapshot_id=snapshot_id))
    await call(copy.stage)
    await call(copy.publish)
    await asyncio.to_thread(copy.assert_holds, of=life.name)
    await call(copy.unpublish)
    await call(copy.unstage)
    await call(copy.delete)
    copy.forget_folders()
    await call(lambda: life.delete_snapshot(snapshot_id))


async def _size(life: Life) -> int:
    return life.disk.stat().st_size


async def all_lives(callers: Callers, seed: int, lives: int, **wishes: Any) -> collections.Counter[str]:
    """Lead that many lives, so many at a time; the first that fails ends the others."""
    room = asyncio.Semaphore(AT_ONCE)
    kinds: collections.Counter[str] = collections.Counter()

    async def one(number: int) -> None:
        async with room:
            kinds[await live(callers, number, random.Random(f"{seed} {number}"), **wishes)] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(lives):
            group.create_task(one(number))
    return kinds


@dataclass(frozen=True)
class Held:
    """What a driver process holds."""

    descriptors: list[str]
    children: list[str]

    @classmethod
    def by(cls, pid: int) -> Held:
        """Look at a process."""
        found = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = entry.readlink()
            except FileNotFoundError:
                continue
            found.append(str(link).partition(":[")[0])  # "socket:[1234]" has another number each time
        children = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return cls(sorted(found), children)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where the drivers come from."""
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def seed(note: Callable[[str], None]) -> int:
    """What the run's chances come from."""
    number = int(os.environ.get("KATACSI_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    note(f"KATACSI_TEST_SEED={number}")
    return number


async def test_many_lives_at_once_leak_nothing_and_lose_nothing(zygote, scratch, seed, note):
    """200 lives of all kinds, 16 at a time, with calls that come twice and calls that are given up."""
    driver = ZygoteDriver(zygote, scratch, pool={"overprovision_ratio": 10})
    async with driver:
        callers = Callers(driver, random.Random(seed))
        callers.up.set()
        # What a process keeps for good (threads, what tools say of themselves) it has after some lives.
        await all_lives(callers, seed + 1, AT_ONCE)
        before = Held.by(driver.pid)
        started = time.monotonic()
        kinds = await all_lives(callers, seed, LIVES)
        seconds = time.monotonic() - started
        note(f"{LIVES} lives in {seconds:.1f} s: {dict(kinds)}; {dict(callers.seen)}")
        assert sum(kinds.values()) == LIVES
        assert not (left := observed.left(driver)), "leaked:\n" + "\n".join(left)
        after = Held.by(driver.pid)
        assert not after.children
        assert after.descriptors == before.descriptors


@pytest.mark.gate("kill-at-every-step")
async def test_lives_go_on_when_the_driver_is_killed_at_random_times(zygote, scratch, seed, note):
    """Whatever the driver was doing when it died, its successor goes on, and nothing leaks or is lost."""
    chance = random.Random(seed)
    driver = ZygoteDriver(zygote, scratch, pool={"overprovision_ratio": 10})
    async with driver:
        callers = Callers(driver, random.Random(seed), may_fail=True)
        callers.up.set()
        broken: list[str] = []

        async def killer() -> None:
            while True:
                # Ever more seldom: on a busy machine a call may take longer than the first pauses.
                await asyncio.sleep(0.1 + 0.4 * chance.random() + 0.02 * callers.seen["killed"])
                callers.up.clear()
                driver.kill()
                broken.extend(order.broken(driver, f"kill {callers.seen['killed']}"))
                await driver.start()
                callers.seen["killed"] += 1
                callers.up.set()

        killing = asyncio.ensure_future(killer())
        started = time.monotonic()
        try:
            # Not copies of xfs: their tool does not survive being run twice at a time.
            kinds = await all_lives(callers, seed, LIVES_WITH_KILLS, copy_xfs=False)
        finally:
            # Not cancelled in the middle of a restart.
            await callers.up.wait()
            killing.cancel()
        seconds = time.monotonic() - started
        note(f"{LIVES_WITH_KILLS} lives in {seconds:.1f} s: {dict(kinds)}; {dict(callers.seen)}")
        assert not broken, "where the driver was killed:\n" + "\n".join(broken)
        await driver.restart()
        assert callers.seen["killed"] > 4
        assert not (left := observed.left(driver)), "leaked:\n" + "\n".join(left)
