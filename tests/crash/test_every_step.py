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
import os
import re
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from katacsi.csi.client import RpcError, csi
from katacsi.testing import leaks
from support import observed, order
from support.lifecycle import MIB, Life
from support.zygote import AFTER, BEFORE, COMMAND_PAUSES_S, TORN, Zygote, ZygoteDriver

if TYPE_CHECKING:
    import io
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.timeout(600)

#: More failures of one call than this say nothing new.
_ENOUGH_FAILURES = 3
#: So often a place is tried that the driver does not come to.
_TRIES = 3
#: So many lives are lived until two have the same steps.
_LIVES = 8
#: Two processors: one driver works while the other starts.
_WORKERS = 2

#: How far a tool gets before it is taken along, in microseconds: hardly, some way, nearly or quite.
_TORN_AFTER_US = (1000, 3000, 6000, 12000)

#: The same for the stand-in for `kata-runtime`: while it starts, has a folder, half a record, or all of it.
_TORN_COMMAND_AFTER_US = tuple(int(phase * 1e6 * COMMAND_PAUSES_S) for phase in (0.5, 1.3, 2.3, 4))

_numbers = itertools.count(1)


class Case:
    """One volume's life up to a crash, and after it."""

    def __init__(self, driver: ZygoteDriver) -> None:
        self.driver = driver
        self.number = next(_numbers)
        self.lives: dict[str, Life] = {}
        self.snapshot_id = ""
        #: Who has a device open beside the pods, like a guest that outlived its pod.
        self.holder: io.FileIO | None = None

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

    def let_go(self) -> None:
        """End whoever has the device open beside the pods."""
        if self.holder is not None:
            self.holder.close()

    async def tear_down(self) -> None:
        """Do what the kubelet and the sidecars do in the end; all of it succeeds and nothing is left."""
        self.let_go()
        for life in reversed(self.lives.values()):
            life.volume_id = life.volume_id or self.id_of("v1", life.name)
            await life.unpublish()
            await settled(life.unstage)
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
    by_command: bool = False  #: records are changed by `kata-runtime`


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


def held(way: str, fs_type: str = "", **wishes: Any) -> Callable[[Case], Awaitable[None]]:
    """Unpublished, and its guest lives on, with the device open."""

    async def prepare(case: Case) -> None:
        await unpublished(way, fs_type, **wishes)(case)
        case.holder = case.vol.device().open("rb", buffering=0)

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


async def left_over(case: Case) -> None:
    """With what a start may find: half a volume, removal and fact, and the record of a pod that went."""
    await published("direct", "ext4")(case)
    driver = case.driver
    driver.kill()
    for name in (".creating-half", ".deleting-half"):
        folder = driver.pool / "volumes" / name
        folder.mkdir()
        (folder / "disk.img").write_bytes(b"half")
        (folder / ".tmp-0123456789abcdef").write_bytes(b"{")
    (driver.facts / "staged" / ".tmp-0123456789abcdef").write_bytes(b"{")
    leaks.undo(leaks.Leaks(mounts=[case.vol.target], loops={}))
    case.vol.target.rmdir()
    case.vol.target.parent.rmdir()


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


async def start(case: Case) -> Any:
    """Start the driver anew; one that dies on the way looks like any other that does not answer."""
    if case.driver.pid:
        case.driver.kill()
    if not await case.driver.tried_to_start():
        raise RpcError("UNAVAILABLE", "it does not start")
    return await case.vol.client.identity.probe(csi.ProbeRequest())


async def stage(case: Case) -> Any:
    return await case.vol.stage()


async def stage_copy(case: Case) -> Any:
    return await case.copy.stage()


async def publish(case: Case) -> Any:
    return await case.vol.publish()


async def unpublish(case: Case) -> Any:
    return await case.vol.unpublish()


async def unstage(case: Case) -> Any:
    return await case.vol.unstage()


async def unstage_copy(case: Case) -> Any:
    return await case.copy.unstage()


@dataclass(frozen=True)
class Refused:
    """The answer of a call that has to be refused."""

    code: str

    def to_dict(self) -> dict[str, str]:
        """Look like any other answer."""
        return {"refused": self.code}


async def unstage_in_vain(case: Case) -> Refused:
    try:
        await case.vol.unstage()
    except RpcError as error:
        if not _is_held(error):
            raise
        return Refused(error.code)
    raise AssertionError("somebody has the device open, and unstage said OK")


async def delete(case: Case) -> Any:
    return await case.vol.delete()


async def delete_snapshot(case: Case) -> Any:
    return await case.vol.delete_snapshot(case.snapshot_id)


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
    await settled(case.vol.unstage)
    await staged_again(case)


async def published_to_the_next(case: Case) -> None:
    """The guest has ended at last; the next pod finds its volume."""
    case.let_go()
    await staged_again(case)


async def created_anew(case: Case) -> None:
    """After a delete that nobody answered the same name is wanted again."""
    await case.vol.create()


# -- what has to hold after a retry --------------------------------------------------------------------


async def holds(case: Case) -> None:
    """The bytes from before are there, through a publish if need be."""
    await case.vol.publish()
    case.vol.assert_holds()


async def nothing_half(case: Case) -> None:
    """What nobody will come back for is gone, and the volume is as good as before."""
    state = case.state()
    assert not [word for word in (".creating", ".deleting", ".tmp", "records:") if word in state], state
    await case.vol.publish()
    case.vol.assert_holds()


async def holds_restaged(case: Case) -> None:
    await case.vol.stage()
    await holds(case)


async def holds_and_lets_go(case: Case) -> None:
    """Its device kept working; when the guest has ended, a pod gets the volume, and unstage succeeds."""
    device = case.vol.device()
    assert Path("/sys/block", device.name, "loop/autoclear").read_text() == "0\n"
    await published_to_the_next(case)
    await case.vol.unpublish()
    await case.vol.unstage()


async def copy_holds(case: Case) -> None:
    await case.copy.stage()
    await case.copy.publish()
    case.copy.assert_holds(of=case.vol.name)
    await holds(case)


async def copy_holds_restaged(case: Case) -> None:
    await case.vol.stage()
    await copy_holds(case)


async def takes_bytes(case: Case) -> None:
    await case.vol.publish()
    case.vol.write()
    case.vol.assert_holds()


THICK = {"loopfile.katacsi.io/allocation": "thick"}

CALLS = [
    Call("create sparse", _nothing, new("direct", "ext4"), delete_unseen),
    Call("create thick", _nothing, new("direct", "ext4", parameters=THICK), delete_unseen),
    Call("stage ext4", created("direct", "ext4"), stage, unstage, takes_bytes),
    Call("stage ext4 thick", created("direct", "ext4", parameters=THICK), stage, unstage, takes_bytes),
    Call("stage xfs", created("host", "xfs"), stage, unstage, takes_bytes),
    Call("stage block", created("block"), stage, unstage, takes_bytes),
    Call("publish direct", staged("direct", "ext4", mount_group="1234"), publish, unpublish, takes_bytes),
    Call("publish host", staged("host", "xfs", mount_group="1234"), publish, unpublish, takes_bytes),
    Call("publish host read-only", staged("host", "ext4", read_only=True), publish, unpublish),
    Call("publish block", staged("block"), publish, unpublish, takes_bytes),
    Call(
        "publish by kata-runtime",
        staged("direct", "xfs", mount_group="1234"),
        publish,
        unpublish,
        takes_bytes,
        by_command=True,
    ),
    Call("unpublish direct", published("direct", "ext4"), unpublish, published_again, holds),
    Call("unpublish host", published("host", "xfs"), unpublish, published_again, holds),
    Call("unpublish block", published("block"), unpublish, published_again, holds),
    Call(
        "unpublish by kata-runtime",
        published("direct", "ext4"),
        unpublish,
        published_again,
        holds,
        by_command=True,
    ),
    Call("unstage direct", unpublished("direct", "ext4"), unstage, staged_again, holds_restaged),
    Call("unstage host", unpublished("host", "xfs"), unstage, staged_again, holds_restaged),
    Call("unstage block", unpublished("block"), unstage, staged_again, holds_restaged),
    Call("unstage held", held("direct", "ext4"), unstage_in_vain, published_to_the_next, holds_and_lets_go),
    Call("expand direct", published("direct", "ext4"), grown(), restarted_pod, holds),
    Call("expand host", published("host", "xfs"), grown(), restarted_pod, holds),
    Call("expand block", published("block"), grown(), restarted_pod, holds),
    Call("expand staged", unpublished("direct", "ext4"), grown(at_staging=True), restarted_pod, holds),
    Call("expand thick", published("direct", "ext4", parameters=THICK), grown(), restarted_pod, holds),
    Call("snapshot", unpublished("direct", "ext4"), snapshot, delete_unseen_snapshot, holds),
    Call("snapshot mounted", unpublished("host", "xfs"), snapshot, delete_unseen_snapshot, holds),
    Call("restore", snapshotted("direct", "ext4"), copied("direct", "ext4"), delete_unseen, copy_holds),
    Call("clone", unstaged("host", "ext4"), cloned, delete_unseen, copy_holds_restaged),
    Call(
        "stage restored ext4", restored("host", "ext4", size=64 * MIB), stage_copy, unstage_copy, copy_holds
    ),
    Call("stage restored xfs", restored("host", "xfs"), stage_copy, unstage_copy, copy_holds),
    Call("delete", unstaged("direct", "ext4"), delete, created_anew),
    Call("start", left_over, start, _nothing, nothing_half),
    Call("delete_snapshot", snapshotted("direct", "ext4"), delete_snapshot, snapshot, holds),
]


# -- the run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    """One for each worker."""
    made = [Zygote() for _ in range(_WORKERS)]
    yield made
    for zygote in made:
        zygote.close()


@dataclass(frozen=True)
class Crash:
    """Where a driver dies."""

    step: str
    occurrence: int
    when: int
    delay_us: int = 0

    def __str__(self) -> str:
        moment = {BEFORE: "before", AFTER: "after", TORN: f"{self.delay_us} us into"}[self.when]
        return f"killed {moment} {self.step} (number {self.occurrence})"

    @property
    def leaves_a_tool(self) -> bool:
        """Whether a tool of the dead driver may still run; calls are refused until it ends."""
        return self.when == AFTER and self.step.startswith("start of")


def crashes(steps: list[str]) -> list[Crash]:
    """Name every place in a list of steps."""
    return [
        Crash(step, steps[: index + 1].count(step), when, delay_us)
        for index, step in enumerate(steps)
        for when, delay_us in ((BEFORE, 0), (AFTER, 0), *((TORN, delay_us) for delay_us in torn(step)))
    ]


def after_each(steps: list[str]) -> list[Crash]:
    """Name the place before the first step, and those after or within each."""
    first, *others = crashes(steps)
    return [first, *(place for place in others if place.when != BEFORE)]


def from_the_command(places: list[Crash]) -> list[Crash]:
    """Leave out what comes before `kata-runtime`: those steps are the same without it."""
    first = next(index for index, place in enumerate(places) if place.step == "start of kata-runtime")
    return places[max(first - 2, 0) :]


def torn(step: str) -> tuple[int, ...]:
    """Say how far into a step a tool is killed with its driver, in microseconds; most steps are no tool's."""
    if step == "start of kata-runtime":
        return _TORN_COMMAND_AFTER_US
    return _TORN_AFTER_US if step.startswith("start of") else ()


@dataclass
class Reference:
    """What a run without a crash did."""

    steps: list[str]
    answer: str
    state: str
    outline: str  #: after the call and its opposite


async def reference(call: Call, zygote: Zygote, folder: Path) -> Reference:
    """Run a call, and in a second life the call and its opposite, without a crash.

    Whoever holds the device for a moment, or takes the one that was free just now, makes the driver repeat a
    step. Such repeats are no steps of the call: its steps are those that two lives agree on.
    """
    folder.mkdir()
    async with ZygoteDriver(zygote, folder, pool=call.pool, by_command=call.by_command) as driver:
        case, steps, answer = await _counted(call, driver)
        seen = Reference(steps, case.told(answer), case.state(), "")
        if call.check:
            await call.check(case)
        await case.tear_down()
        others = []
        while sorted(seen.steps) not in others:
            assert len(others) < _LIVES, f"no two lives have the same steps; the last: {seen.steps}"
            others.append(sorted(seen.steps))
            case, seen.steps, _ = await _counted(call, driver)
            await settled(lambda: call.opposite(case))  # noqa: B023 -- called at once
            seen.outline = outline(case.state())
            await case.tear_down()
    return seen


async def _counted(call: Call, driver: ZygoteDriver) -> tuple[Case, list[str], Any]:
    """Run a call in a life of its own; give that life, the steps, and the answer."""
    case = await _before(call, driver)
    driver.count()
    answer = await settled(lambda: call.act(case))
    return case, driver.counted(), answer


async def _before(call: Call, driver: ZygoteDriver) -> Case:
    """Come to the moment before the call, in a process that remembers nothing."""
    case = Case(driver)
    await call.prepare(case)
    if call.act is not start:
        await driver.restart()
    return case


def outline(state: str) -> str:
    """Leave out what a call that came half-way may have done for good: sizes, facts, a mount at staging."""
    lines = [
        re.sub(r"\d+ bytes", "", line)
        for line in state.splitlines()
        if not line.startswith(("filesystem:", "staging:", "mount: <scratch>/staging"))
        and "volume.json" not in line
        and not line.endswith("/ 755")
    ]
    return "\n".join(lines)


async def crash(call: Call, case: Case, place: Crash) -> bool:
    """Run the call until the driver dies there, start it again, and say whether it died.

    It may not come to the place: a step more or less is needed when a loop device gets another number, and
    none when somebody else holds the device.
    """
    case.driver.arm(place.step, place.occurrence, place.when, place.delay_us)
    try:
        await call.act(case)
    except RpcError as error:
        if _is_held(error):
            return False
        status = case.driver.reap()
        assert status == -signal.SIGKILL, f"ended with {status} instead of being killed"
    else:
        return False
    finally:
        case.driver.disarm()
    if call.by_command:
        # Nothing can refuse a call because of it. Where a driver runs, systemd or the container ends it, too.
        await case.driver.command_ended()
    broken = order.broken(case.driver, place.step)
    assert not broken, "at that moment:\n" + "\n".join(broken)
    await case.driver.start()
    return True


async def settled(step: Callable[[], Awaitable[Any]], place: Crash | None = None) -> Any:
    """Make a call; as long as somebody else may hold the device, make it as often as the kubelet would.

    That is a tool that the dead driver has left, or a process of another test: whoever makes a mount
    namespace of its own has a copy of every mount in it.
    """
    end = time.monotonic() + 10
    while True:
        try:
            return await step()
        except RpcError as error:
            waits = _is_held(error) or (place is not None and place.leaves_a_tool)
            if not waits or time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


def _is_held(error: RpcError) -> bool:
    """Whether a call was refused because somebody has the device, which may be a neighbour of this test."""
    return "is mounted or held open" in error.message


async def retried(call: Call, seen: Reference, driver: ZygoteDriver, place: Crash) -> bool:
    """Crash, repeat the call, compare with the run without a crash, go on to the end; say whether it died."""
    case = await _before(call, driver)
    died = await crash(call, case, place)
    answer = await settled(lambda: call.act(case), place)
    _same("answer", seen.answer, case.told(answer))
    _same("state", seen.state, case.state())
    if call.check:
        await call.check(case)
    await case.tear_down()
    return died


async def turned_back(call: Call, seen: Reference, driver: ZygoteDriver, place: Crash) -> bool:
    """Crash, then the opposite comes instead of the retry; say whether it died."""
    case = await _before(call, driver)
    died = await crash(call, case, place)
    await settled(lambda: call.opposite(case), place)
    _same("outline", seen.outline, outline(case.state()))
    await case.tear_down()
    return died


def _same(what: str, wanted: str, found: str) -> None:
    if wanted != found:
        difference = difflib.unified_diff(
            wanted.splitlines(), found.splitlines(), "without a crash", "after the crash", n=0, lineterm=""
        )
        raise AssertionError(f"another {what} than without a crash:\n" + "\n".join(difference))


async def everywhere(
    call: Call,
    then: Callable[[Call, Reference, ZygoteDriver, Crash], Awaitable[bool]],
    zygotes: list[Zygote],
    scratch: Path,
    choose: Callable[[list[str]], list[Crash]] = crashes,
) -> tuple[Reference, int]:
    """Do something at every place of a call; give the run without a crash, and the number of deaths."""
    seen = await reference(call, zygotes[0], scratch / "reference")
    assert seen.steps, "the call has no steps: the launcher wraps nothing any more"
    places = from_the_command(choose(seen.steps)) if call.by_command else choose(seen.steps)
    waiting = iter(places)
    failures: list[str] = []
    deaths: list[Crash] = []

    async def work(zygote: Zygote, number: int) -> None:
        for attempt in itertools.count():
            folder = scratch / f"worker-{number}-{attempt}"
            folder.mkdir()
            driver = ZygoteDriver(zygote, folder, pool=call.pool, by_command=call.by_command)
            place: Crash | None = None
            try:
                async with driver:
                    for place in waiting:
                        if len(failures) >= _ENOUGH_FAILURES:
                            break
                        for _ in range(_TRIES):
                            if await then(call, seen, driver, place):
                                deaths.append(place)
                                break
            except (AssertionError, RpcError) as error:
                failures.append(f"{place}: {error}\n{driver.tail(12)}")
                leaks.undo(leaks.settled_leaks_below(folder))
            else:
                break

    await asyncio.gather(*(work(zygote, number) for number, zygote in enumerate(zygotes)))
    assert not failures, f"{len(failures)} of {len(places)}:\n\n" + "\n\n".join(failures)
    missed = [str(place) for place in places if place not in deaths]
    assert len(missed) <= len(places) / 10, f"the driver did not come to {missed}"
    return seen, len(deaths)


@pytest.mark.gate("kill-at-every-step")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.replace(" ", "-"))
async def test_a_call_repeated_after_a_crash_at_any_step_ends_as_if_there_had_been_none(
    call, zygotes, scratch, table
):
    """Same answer, same files, records, facts, mounts and devices, same bytes; and nothing after the end."""
    started = time.monotonic()
    seen, places = await everywhere(call, retried, zygotes, scratch)
    table(call.name, steps=len(seen.steps), retried=places, seconds=time.monotonic() - started)


@pytest.mark.gate("kill-at-every-step")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.replace(" ", "-"))
async def test_the_opposite_call_after_a_crash_at_any_step_succeeds(call, zygotes, scratch, table):
    """Unpublish after a torn publish, unstage after a torn stage, delete after a torn create, and so on.

    After each step: what a crash before the next one leaves is the same, and the retries have both.
    """
    started = time.monotonic()
    seen, places = await everywhere(call, turned_back, zygotes, scratch, after_each)
    table(call.name, steps=len(seen.steps), turned_back=places, seconds=time.monotonic() - started)


async def test_what_a_neighbour_makes_the_driver_repeat_is_no_step(zygotes, scratch):
    """Somebody who has the device open for a moment makes the driver detach it again; it counts once."""
    call = next(call for call in CALLS if call.name == "unstage block")
    quiet = await reference(call, zygotes[0], scratch / "quiet")
    acts = itertools.count()

    async def visit(device: Path) -> None:
        """Have it open until a little after somebody wanted to detach it, which makes it autoclear."""
        visitor = os.open(device, os.O_RDONLY)
        autoclear = Path("/sys/block", device.name, "loop/autoclear")
        while autoclear.read_text() == "0\n":  # noqa: ASYNC110 -- there is no event to wait for
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # the driver asks again after 1, 2, 4, 8 ms
        os.close(visitor)

    async def unstage_with_a_visitor(case: Case) -> Any:
        if next(acts):
            return await unstage(case)
        return (await asyncio.gather(visit(case.vol.device()), unstage(case)))[1]

    visited = await reference(replace(call, act=unstage_with_a_visitor), zygotes[0], scratch / "visited")
    assert sorted(visited.steps) == sorted(quiet.steps)
    assert next(acts) > 2, "the visitor disturbed nobody"
