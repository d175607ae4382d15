"""Host steps run on the event loop's processor, and what they start runs anywhere."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from katacsi.host import command, offloop, processor

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two processors to tell one from all"
)


@pytest.fixture
def followed(monkeypatch):
    """Follow this thread, with host threads that nobody else gets to use; give what the process may use."""
    allowed = os.sched_getaffinity(0)
    monkeypatch.setattr(processor, "_seat", None)
    monkeypatch.setattr(offloop, "_threads", ThreadPoolExecutor(2))
    processor.follow_this_thread()
    yield allowed
    os.sched_setaffinity(0, allowed)


def bound() -> set[int]:
    return os.sched_getaffinity(0)


async def test_a_step_runs_on_the_processor_of_the_event_loop(followed):
    there = await offloop.off_loop(bound)

    assert len(there) == 1
    assert there == os.sched_getaffinity(0)


async def test_without_being_told_threads_run_anywhere(followed, monkeypatch):
    monkeypatch.setattr(processor, "_seat", None)

    assert await offloop.off_loop(bound) == followed


async def test_many_steps_at_once_share_it(followed):
    places = await asyncio.gather(*(offloop.off_loop(bound) for _ in range(20)))

    assert {len(place) for place in places} == {1}
    assert len(set(map(frozenset, places))) == 1


async def test_a_command_may_use_every_processor(followed):
    def step():
        status = command.run(["cat", "/proc/self/status"], timeout_s=5)
        return status.stdout.decode(), bound()

    status, after = await offloop.off_loop(step)

    words = next(line for line in status.splitlines() if line.startswith("Cpus_allowed:")).split()[1]
    mask = int(words.replace(",", ""), 16)
    assert {number for number in range(mask.bit_length()) if mask >> number & 1} == followed
    assert len(after) == 1, "the thread itself goes back"


async def test_a_long_copy_may_use_every_processor(followed):
    def copying():
        with processor.anywhere():
            return bound()

    assert await offloop.off_loop(copying) == followed
    assert len(await offloop.off_loop(bound)) == 1


async def test_once_in_a_while_the_kernel_chooses_again(followed, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(processor.time, "monotonic", lambda: now)
    processor.of_loop()
    assert len(bound()) == 1

    now += 0.9
    processor.of_loop()
    assert len(bound()) == 1, "a choice stands for a second"

    now += 0.2
    processor.of_loop()
    assert bound() == followed, "then the loop may be moved"

    now += 0.001
    processor.of_loop()
    assert bound() == followed, "for long enough that it can be"

    now += 0.1
    chosen = processor.of_loop()
    assert bound() == {chosen}


async def test_steps_follow_to_another_processor(followed, monkeypatch):
    first, second = sorted(followed)[:2]
    monkeypatch.setattr(processor, "of_loop", lambda: first)
    assert await offloop.off_loop(bound) == {first}
    monkeypatch.setattr(processor, "of_loop", lambda: second)
    assert {frozenset(await offloop.off_loop(bound)) for _ in range(4)} == {frozenset({second})}


async def test_processors_that_were_taken_away_are_no_error(followed, monkeypatch):
    def refused(pid, processors):
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(processor.os, "sched_setaffinity", refused)
        assert await offloop.off_loop(lambda: "done") == "done"


async def test_the_kernel_is_asked_for_all_and_not_for_those_of_the_start(followed, monkeypatch):
    """A cgroup may be given other processors than it had; of all there are the kernel takes what it has."""
    assert processor._seat.allowed is None
    os.sched_setaffinity(0, {min(followed)})
    processor.go_anywhere()
    assert bound() == followed

    def refused(pid, processors):
        raise OSError(22, "Invalid argument")

    with monkeypatch.context() as patch:
        patch.setattr(processor.os, "sched_setaffinity", refused)
        os_bound = processor.of_loop()
    assert os_bound in followed
    assert bound() == followed, "the one that was chosen is gone already"


async def test_whoever_bound_the_process_is_obeyed(followed, monkeypatch):
    """A driver that was started by taskset(1) stays where it was put, with its tools."""
    monkeypatch.setattr(processor, "_seat", None)
    given = set(sorted(followed)[:2])
    real = os.sched_getaffinity
    seen = []

    def getaffinity(pid):
        seen.append(real(pid))
        return given if len(seen) == 1 else seen[-1] | {4095}

    with monkeypatch.context() as patch:
        patch.setattr(processor.os, "sched_getaffinity", getaffinity)
        processor.follow_this_thread()
    assert processor._seat.allowed == given


async def test_other_threads_are_not_kept_on_one_processor(followed):
    """A thread starts where its starter is; those of asyncio.to_thread are let go."""
    offloop.stay_beside_loop()
    assert len(await offloop.off_loop(bound)) == 1
    assert len(bound()) == 1
    assert await asyncio.to_thread(bound) == followed


def test_a_kernel_that_does_not_tell_is_left_alone(followed, monkeypatch):
    """sched_getcpu(3) may fail, under a filter of system calls for one."""
    monkeypatch.setattr(processor, "_seat", None)
    monkeypatch.setattr(processor, "_libc", SimpleNamespace(sched_getcpu=lambda: -1))
    processor.follow_this_thread()
    assert processor.of_loop() is None


def test_one_processor_is_not_chosen_from(followed, monkeypatch):
    monkeypatch.setattr(processor, "_seat", None)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda pid: {0})

    processor.follow_this_thread()

    assert processor.of_loop() is None
