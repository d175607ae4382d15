"""Conformance: nothing is left of an attachment, and the event loop, which serves all, never waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from katacsi.testing import steps
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.loopwatch import watching_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.backends.api import Volume
    from katacsi.testing.pools import PoolUnderTest
    from katacsi.testing.steps import Step

#: LOOP_SET_FD and LOOP_CONFIGURE, of <linux/loop.h>.
_GIVING_A_FILE = (0x4C00, 0x4C0A)

#: What leaks once leaks each time; what others on the machine do meanwhile does not come in step.
_ROUNDS = 4


class LoopsMade:
    """Notes the loop devices that this process, and no tool of it, gave a file."""

    def __init__(self) -> None:
        #: Each with its file, as `_devices` says it.
        self.devices: set[str] = set()

    def before(self, step: Step) -> None:
        """Have no opinion."""

    def after(self, step: Step, result: object) -> None:
        """Note a device that got a file."""
        if step.name == "ioctl" and step.arguments[1] in _GIVING_A_FILE:
            with contextlib.suppress(OSError):
                node = Path(f"/proc/self/fd/{int(step.arguments[0])}").readlink()
                self.devices.add(_described(Path("/sys/block", node.name, "loop/backing_file")))


@pytest.mark.asyncio
class TidinessTests(ConformanceKit):
    """What attach, detach and the calls before them leave in the process and in the kernel."""

    async def test_attaching_leaves_no_device_behind(self, pool: PoolUnderTest) -> None:
        """After each detachment there are as many loop and device-mapper devices as before."""
        volume = await pool.create("a")
        await _attach_and_detach(pool, volume)
        made, left, meanwhile = LoopsMade(), [], []
        for _ in range(_ROUNDS):
            before, began = _devices(), time.monotonic()
            with steps.watched(made):
                await _attach_and_detach(pool, volume)
            left.append(_devices() - before)
            # As long once more without an attachment: what comes now is somebody else's.
            before, took = _devices(), time.monotonic() - began
            await asyncio.sleep(took)
            meanwhile.append(_devices() - before)
        there = _devices()
        own = there & made.devices
        if not own and not any(meanwhile) and all(each & there for each in left):
            own = there & set().union(*left)
        assert not own, (
            f"{_ROUNDS} attachments left devices in the kernel: {', '.join(sorted(own))}; after a few "
            "hundred pods the node has no more"
        )

    async def test_attaching_leaves_no_descriptor_behind(self, pool: PoolUnderTest) -> None:
        """After each detachment the process has as many files open as before."""
        volume = await pool.create("a")
        await _attach_and_detach(pool, volume)
        before = _descriptors()
        for _ in range(_ROUNDS):
            await _attach_and_detach(pool, volume)
        more = [target for number, target in _descriptors().items() if before.get(number) != target]
        assert len(more) < _ROUNDS, (
            f"{_ROUNDS} attachments left {len(more)} descriptors open: {more}; an open device cannot be "
            "taken away, and after a thousand pods nothing can be opened"
        )

    async def test_the_event_loop_is_not_blocked(self, pool: PoolUnderTest) -> None:
        """No call makes the loop's thread wait for a disk, a tool or a server: all volumes would wait."""
        first = await _life(pool, self)
        # Once may be the machine's doing; a backend that blocks does so each time.
        again = await _life(pool, self) if first else {}
        blocked = {name: places for name, places in again.items() if name in first}
        assert not blocked, "the event loop was blocked, by " + "; ".join(
            f"{name} ({places[0]})" for name, places in blocked.items()
        )


async def _life(pool: PoolUnderTest, kit: ConformanceKit) -> dict[str, list[str]]:
    """Live a volume's life; give the calls that blocked the loop, and where."""
    blocked = {}

    async def watched(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with watching_loop() as watch:
            await call()
        if watch.blocked:
            blocked[name] = watch.blocked

    await watched("create", lambda: pool.create("a"))
    volume = await pool.backend.find("a")
    assert volume is not None
    facts = volume.facts.with_(guest_written=True)
    backend, found = pool.backend, volume
    await watched("get", lambda: backend.get(found.id))
    await watched("list", lambda: backend.list("", 0))
    await watched("capacity", lambda: backend.capacity(kit.parameters))
    await watched(
        "compare_and_set_facts", lambda: backend.compare_and_set_facts(found.id, found.facts, facts)
    )
    await watched("attach", lambda: pool.attach(found.id))
    await watched("attached", lambda: pool.attached(found.id))
    await watched("condition", lambda: pool.condition(found.id))
    await watched("detach", lambda: pool.detach(found.id))
    await watched("delete", lambda: backend.delete(found.id))
    await watched("close and start", pool.restart)
    return blocked


async def _attach_and_detach(pool: PoolUnderTest, volume: Volume) -> None:
    await pool.attach(volume.id)
    await pool.detach(volume.id)


def _devices() -> set[str]:
    """Give the loop devices that have a file, and the device-mapper devices, with what they stand for."""
    found = set()
    for state in (
        *Path("/sys/block").glob("loop*/loop/backing_file"),
        *Path("/sys/block").glob("dm-*/dm/name"),
    ):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.add(_described(state))
    return found


def _described(state: Path) -> str:
    return f"{state.parts[3]} ({state.read_text('utf-8', 'replace').strip()})"


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- numbers, not paths
        with contextlib.suppress(OSError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115 -- text as the kernel has it
    return found
