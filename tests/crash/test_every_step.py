"""The driver is killed at every step of every call that changes something, and nothing is lost or left.

A step is a call of a public function of `katacsi.host`, or a kernel call with an effect inside one (see
`support.crash_launcher`). For each step the driver dies once before it and once after it, is started again,
and either the call is repeated, or its opposite comes. What there is then has to be what there would have
been without a crash, and after the tear-down there is nothing.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import json
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from katacsi.rpc.client import RpcError
from support import leaks, observed
from support.lifecycle import MIB, SIZES, Life
from support.zygote import AFTER, BEFORE, Zygote, ZygoteDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

#: More failures of one call than this say nothing new.
_ENOUGH_FAILURES = 3
#: Two processors: one driver works while the other starts.
_WORKERS = 2

_numbers = itertools.count(1)


class Case:
    """One volume's life up to a crash, and after it."""

    def __init__(self, driver: ZygoteDriver) -> None:
        self.driver = driver
        self.number = next(_numbers)
        self.lives: dict[str, Life] = {}
        self.snapshot_id = ""

    def life(self, way: str, fs_type: str = "", *, called: str = "vol", **wishes: Any) -> Life:
        """Begin a volume."""
        life = Life(self.driver, f"{called}-{self.number:05d}", way, fs_type, **wishes)
        self.lives[called] = life
        return life

    @property
    def vol(self) -> Life:
        """The volume that the call is about."""
        return self.lives["vol"]

    @property
    def copy(self) -> Life:
        """What was made from a snapshot of `vol`, or of `vol` itself."""
        return self.lives["copy"]

    @property
    def words(self) -> dict[str, str]:
        """What stands for this case's names."""
        return {f"{name}-{self.number:05d}": f"<{name}>" for name in ("vol", "copy", "snap")}

    def state(self) -> str:
        """What there is now."""
        return observed.state(self.driver, self.words)

    def told(self, answer: Any) -> str:
        """An answer as comparable text."""
        value = answer.to_dict()
        for message in (value, *(inner for inner in value.values() if isinstance(inner, dict))):
            message.pop("creationTime", None)
        return observed.neutral(json.dumps(value, sort_keys=True), self.driver, self.words)

    def id_of(self, kind: str, name: str) -> str:
        """The id that a volume or snapshot gets, even if nobody was told it."""
        uid = json.loads((self.driver.pool / "pool.json").read_text())["uid"]
        return f"{kind}:default:{uid}:{name}"

    async def tear_down(self) -> None:
        """Do what the kubelet and the sidecars do in the end; all of it succeeds and nothing is left."""
        for life in reversed(self.lives.values()):
            life.volume_id = life.volume_id or self.id_of("v1", life.name)
            await life.unpublish()
            await life.unstage()
            await life.delete()
            life.forget_folders()
        await self.vol.delete_snapshot(self.snapshot_id or self.id_of("s1", f"snap-{self.vol.name}"))
        assert not (left := observed.left(self.driver)), "left after the tear-down:\n" + "\n".join(left)


@dataclass(frozen=True)
class Call:
    """A call under test: how to get to it, itself, its opposite, and what has to hold after a retry."""

    name: str
    prepare: Callable[[Case], Awaitable[object]]
    act: Callable[[Case], Awaitable[Any]]
    opposite: Callable[[Case], Awaitable[object]]
    check: Callable[[Case], Awaitable[object]] | None = None
    pool: dict[str, Any] = field(default_factory=dict)


async def _nothing(case: Case) -> None:
    del case


# -- how far a volume is when the call comes -----------------------------------------------------------


def created(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    async def prepare(case: Case) -> None:
        await case.life(way, fs_type, **wishes).create()

    return prepare


def staged(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    async def prepare(case: Case) -> None:
        await created(way, fs_type, **wishes)(case)
        await case.vol.stage()

    return prepare


def published(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    """Published, and written to."""

    async def prepare(case: Case) -> None:
        await staged(way, fs_type, **wishes)(case)
        await case.vol.publish()
        if not case.vol.read_only:
            case.vol.write()

    return prepare


def unpublished(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    """Published once, written to, still staged (and on the host still mounted at the staging path)."""

    async def prepare(case: Case) -> None:
        await published(way, fs_type, **wishes)(case)
        await case.vol.unpublish()

    return prepare


def unstaged(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    async def prepare(case: Case) -> None:
        await unpublished(way, fs_type, **wishes)(case)
        await case.vol.unstage()

    return prepare


def snapshotted(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    """With a snapshot of its bytes, cut while it was staged."""

    async def prepare(case: Case) -> None:
        await unpublished(way, fs_type, **wishes)(case)
        case.snapshot_id = (await case.vol.snapshot()).snapshot.snapshot_id

    return prepare


def restored(way: str, fs_type: str, **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    """With a copy from its snapshot."""

    async def prepare(case: Case) -> None:
        await snapshotted(way, fs_type)(case)
        await case.life(way, fs_type, called="copy", **wishes).create(snapshot_id=case.snapshot_id)

    return prepare


# -- the calls -----------------------------------------------------------------------------------------


def new(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[Any]]:
    async def act(case: Case) -> Any:
        life = case.lives.get("vol") or case.life(way, fs_type, **wishes)
        return await life.create()

    return act


def grown(*, at_staging: bool = False) -> Callable[[Case], Awaitable[Any]]:
    async def act(case: Case) -> Any:
        return await case.vol.expand(case.vol.size + 32 * MIB, at_staging=at_staging)

    return act


def copied(way: str, fs_type: str, *, size: int = 0) -> Callable[[Case], Awaitable[Any]]:
    async def act(case: Case) -> Any:
        life = case.lives.get("copy") or case.life(way, fs_type, called="copy", size=size)
        return await life.create(snapshot_id=case.snapshot_id)

    return act


async def cloned(case: Case) -> Any:
    life = case.lives.get("copy") or case.life(case.vol.way, case.vol.fs_type, called="copy")
    return await life.create(source_volume_id=case.vol.volume_id)


async def snapshot(case: Case) -> Any:
    answer = await case.vol.snapshot()
    case.snapshot_id = answer.snapshot.snapshot_id
    return answer


# -- their opposites -----------------------------------------------------------------------------------


async def delete_unseen(case: Case) -> None:
    """Delete what a create that nobody answered may have made."""
    life = case.lives.get("copy") or case.vol
    life.volume_id = case.id_of("v1", life.name)
    await life.delete()


async def delete_unseen_snapshot(case: Case) -> None:
    await case.vol.delete_snapshot(case.id_of("s1", f"snap-{case.vol.name}"))


async def published_again(case: Case) -> None:
    await case.vol.publish()
    case.vol.assert_holds()


async def staged_again(case: Case) -> None:
    await case.vol.stage()
    await published_again(case)


async def restarted_pod(case: Case) -> None:
    """After a growth that nobody answered the pod goes; a new one finds a sound volume."""
    await case.vol.unpublish()
    await case.vol.unstage()
    await staged_again(case)


async def created_anew(case: Case) -> None:
    """After a delete that nobody answered the same name is wanted again."""
    await case.vol.create()


# -- what has to hold after a retry --------------------------------------------------------------------


async def holds(case: Case) -> None:
    """The bytes from before are there, through a publish if need be."""
    await case.vol.publish()
    case.vol.assert_holds()


async def holds_restaged(case: Case) -> None:
    await case.vol.stage()
    await holds(case)


async def copy_holds(case: Case) -> None:
    await case.copy.stage()
    await case.copy.publish()
    case.copy.assert_holds(of=case.vol.name)
    await holds(case)


async def takes_bytes(case: Case) -> None:
    await case.vol.publish()
    case.vol.write()
    case.vol.assert_holds()


THICK = {"loopfile.katacsi.io/allocation": "thick"}

CALLS = [
    Call("create sparse", _nothing, new("direct", "ext4"), delete_unseen),
    Call("create thick", _nothing, new("direct", "ext4", parameters=THICK), delete_unseen),
    Call("stage ext4", created("direct", "ext4"), lambda c: c.vol.stage(), lambda c: c.vol.unstage(), takes_bytes),
    Call("stage xfs", created("host", "xfs"), lambda c: c.vol.stage(), lambda c: c.vol.unstage(), takes_bytes),
    Call("stage block", created("block"), lambda c: c.vol.stage(), lambda c: c.vol.unstage(), takes_bytes),
    Call("publish direct", staged("direct", "ext4"), lambda c: c.vol.publish(), lambda c: c.vol.unpublish(), takes_bytes),
]


# -- the run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    """A zygote a worker."""
    made = [Zygote() for _ in range(_WORKERS)]
    yield made
    for zygote in made:
        zygote.close()


async def test_count(zygotes, scratch, capsys):
    for call in CALLS:
        folder = scratch / call.name.replace(" ", "-")
        folder.mkdir()
        async with ZygoteDriver(zygotes[0], folder, pool=call.pool) as driver:
            case = Case(driver)
            await call.prepare(case)
            t = time.perf_counter()
            await driver.restart()
            t1 = time.perf_counter()
            driver.count()
            answer = await call.act(case)
            steps = driver.counted()
            t2 = time.perf_counter()
            s = case.state()
            t3 = time.perf_counter()
            with capsys.disabled():
                print(f"\n=== {call.name}: {len(steps)} restart {t1-t:.3f} act {t2-t1:.3f} state {t3-t2:.3f}")
                print(" ".join(steps))
                print(case.told(answer))
                print(s)
            if call.check: await call.check(case)
            await case.tear_down()
            with capsys.disabled(): print("teardown", time.perf_counter()-t3)
