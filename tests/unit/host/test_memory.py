"""Memory that was freed goes back to the system. Each case is a process: what is set there stays set."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import threading
from katacsi.host import memory
def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) << 10
def arenas():
    spans = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.split()[1] == "---p"]
    return sum(int(end, 16) - int(start, 16) > 32 << 20 for start, end in spans)
"""


def said(program: str) -> int:
    answer = subprocess.run(
        [sys.executable, "-P", "-c", _LOOK + program], capture_output=True, text=True, check=True
    )
    return int(answer.stdout)


def test_large_buffers_between_small_pieces_go_back():
    """A buffer that was freed costs nothing, also where a larger one was freed before it."""
    program = (
        "memory.give_back()\n"
        "del (large := [bytes(16 << 20)])[0]\n"
        "before = anonymous()\n"
        "kept, freed = [], []\n"
        "for _ in range(20):\n"
        "    freed.append(b'x' * (1 << 20)); kept.append(b'x' * 4096)\n"
        "freed.clear()\n"
        "print(anonymous() - before)"
    )
    left = said(program)
    assert left < 2 << 20
    without = said(program.replace("memory.give_back()", ""))
    assert without > 10 << 20, "else this proves nothing"


def test_threads_have_no_arenas_of_their_own():
    """What a thread allocates comes from where the others' comes from."""
    program = (
        "memory.give_back()\n"
        "threads = [threading.Thread(target=lambda: b'x' * 4096) for _ in range(8)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "print(arenas())"
    )
    assert said(program) == 0
    assert said(program.replace("memory.give_back()", "")) > 0, "else this proves nothing"
