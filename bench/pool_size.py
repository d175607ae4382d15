"""Whether an operation costs more when the pool holds many volumes: two drivers, taken in turns."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import load
import servers

if TYPE_CHECKING:
    from pathlib import Path

FEW = 10

#: So long ext4 keeps a freed inode from being used again; it searches past such ones whenever a file
#: is made, and the load before this has freed thousands.
_EXT4_RECENTLY_S = 6


@dataclass
class Sizes:
    """What was found.

    Attributes:
        full: how many volumes the fuller pool held.
        steps: step to its milliseconds in the pool of `FEW` volumes and in the full one, medians.
        probe_ms: from exec to the first Probe with the pool of `FEW` volumes and with the full one.
    """

    full: int
    steps: dict[str, tuple[float, float]]
    probe_ms: tuple[float, float]


def measure(home: Path, *, full: int, turns: int) -> Sizes:
    """Take a volume through both pools, in turns, and compare each step."""
    pools = [servers.katacsi(home, "few"), servers.katacsi(home, "many")]
    steps: list[dict[str, list[float]]] = [defaultdict(list) for _ in pools]
    try:
        for pool, volumes in zip(pools, (FEW, full), strict=True):
            pool.start()
            load.fill(pool, volumes)
            load.run(pool, 1, 0.2)  # warm
        time.sleep(_EXT4_RECENTLY_S)
        for turn in range(turns):
            # Who comes first meets a colder cache, so they take turns at that too.
            for index in (0, 1) if turn % 2 else (1, 0):
                with load.connected(pools[index]) as connection:
                    volume = load.Volume(connection, steps[index])
                    volume.create()
                    volume.get()
                    volume.use()
                    volume.delete()
        starts: list[list[float]] = [[], []]
        for _ in range(3):
            for pool, times in zip(pools, starts, strict=True):
                pool.stop()
                time.sleep(0.1)
                times.append(pool.start())
    finally:
        for pool in pools:
            pool.stop()
    few, many = (
        {step: median(times) * 1000 for step, times in part.items() if step != "retries"} for part in steps
    )
    return Sizes(
        full, {step: (few[step], many[step]) for step in few}, (median(starts[0]), median(starts[1]))
    )
