"""Threads for steps: how many there are, which one is woken, and what an end of the process leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from katacsi.host.threads import Threads


class Held:
    """A step that notes its thread and lasts until told to end."""

    def __init__(self) -> None:
        self.thread: str | None = None
        self._began, self._may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.thread = threading.current_thread().name
        self._began.set()
        self._may_end.wait(10)

    def began(self) -> bool:
        return self._began.wait(10)

    def end(self) -> None:
        self._may_end.set()


def started(threads, number):
    """Begin so many steps, each in a thread of its own."""
    steps = [Held() for _ in range(number)]
    for step in steps:
        threads.run(step)
        assert step.began()
    return steps


def ended(threads, *steps):
    for step in steps:
        step.end()
    threads.finish()


def until_resting(threads, number):
    for _ in range(1000):
        if len(threads._resting) == number:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{len(threads._resting)} threads rest, not {number}")


def test_as_many_threads_as_steps_at_once():
    """A thread that rests is taken before a new one is started."""
    threads = Threads(8, "test")
    for _ in range(3):
        steps = started(threads, 2)
        assert {step.thread for step in steps} == {"test_1", "test_2"}
        ended(threads, *steps)


def test_more_steps_than_threads_wait_in_turn():
    """With all threads busy a step waits, and none is lost."""
    threads = Threads(2, "test")
    busy = started(threads, 2)
    order = []
    for number in range(5):
        threads.run(lambda number=number: order.append(number))
    assert not order
    busy[0].end()
    for _ in range(1000):
        if len(order) == 5:
            break
        threading.Event().wait(0.01)
    assert order == [0, 1, 2, 3, 4]
    ended(threads, *busy)


def test_the_one_that_rested_last_is_woken():
    """Its memory is still at hand."""
    threads = Threads(3, "test")
    steps = started(threads, 3)
    for step in (steps[0], steps[2], steps[1]):
        resting = len(threads._resting) + 1
        step.end()
        until_resting(threads, resting)
    (step,) = started(threads, 1)
    assert step.thread == steps[1].thread
    ended(threads, step)


def test_a_thread_that_cannot_be_started_delays_a_step(monkeypatch):
    """Where the system gives no more threads, those that there are work on; without any it is an error."""
    threads = Threads(3, "test")

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.run(lambda: None)
    busy = started(threads, 1)
    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        threads.run(done.set)
    assert not done.is_set()
    ended(threads, *busy)
    assert done.wait(10)
    ended(threads, *started(threads, 3))


def test_a_thread_that_came_to_rest_meanwhile_takes_the_step(monkeypatch):
    """While a new thread was refused, another one ended its step: nothing else would wake it."""
    threads = Threads(2, "test")
    (busy,) = started(threads, 1)

    def refuse(_thread):
        ended(threads, busy)
        raise RuntimeError("can't start new thread")

    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        patched.setattr(Threads, "finish", lambda threads: until_resting(threads, 1))
        threads.run(done.set)
    assert done.wait(10)
    threads.finish()


def test_a_thread_interrupts_nobody():
    """Its scheduling policy is its own, and not that of the thread that woke it."""
    threads = Threads(1, "test")
    seen = []
    threads.run(lambda: seen.append(os.sched_getscheduler(0)))
    threads.finish()
    assert seen == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_operator_s_policy_stays():
    """Whoever runs the driver as idle work, or as urgent work, has it so in all threads."""
    program = """if True:
        import os
        from katacsi.host.threads import Threads
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        Threads(1, "test").run(lambda: print(os.sched_getscheduler(0) == os.SCHED_IDLE, flush=True))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_without_that_policy_a_thread_works_all_the_same(monkeypatch):
    """A sandbox may refuse the call."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    threads = Threads(1, "test")
    done = threading.Event()
    threads.run(done.set)
    assert done.wait(10)


def test_a_step_that_fails_takes_no_thread_along(monkeypatch):
    """It should have told its caller; now it is told as any thread's failure is, and others go on."""
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    threads = Threads(1, "test")
    done = threading.Event()
    threads.run(lambda: 1 / 0)
    threads.run(done.set)
    assert done.wait(10)
    threads.finish()
    (failure,) = told
    assert (failure.exc_type, failure.thread.name) == (ZeroDivisionError, "test_1")


def test_the_process_ends_when_its_steps_have():
    """What began is finished, what waited is done, and threads that rest hold up nothing."""
    program = """if True:
        import time
        from katacsi.host.threads import Threads
        threads = Threads(1, "test")
        for word in ("one", "two"):
            threads.run(lambda word=word: (time.sleep(0.2), print(word, flush=True)))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "")
