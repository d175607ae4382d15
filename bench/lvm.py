#!/usr/bin/env python3
"""Measure the lvm backend on real device-mapper, beside the same LVM commands run bare.

    python tools/lab.py run --disk 2G --disk 2G -- .venv/bin/python bench/lvm.py

A round is create, attach, detach, delete. The floor are the commands that such a volume needs in any case:
make it, deactivate it, mark it ready, activate and deactivate it for use, remove it. One line for each kind:
milliseconds of both, and their ratio. Then what lists and capacity cost with 10 and with 100 LVs.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, LvmSettings, group
from katacsi.backends.lvm.commands import configuration, environment
from katacsi.host import command

ROUNDS = 15
SIZE = 16 << 20
DISKS = ("/dev/ubda", "/dev/ubdb")
SETTINGS = {
    "linear": LvmSettings(volume_group="bench", devices=DISKS),
    "thin": LvmSettings(volume_group="bench", devices=DISKS, thin_pool="thin"),
}
MAKING = {
    "linear": ["--type", "linear", "-l", "4", "-Zn", "-Wn", "-ay", "-K", "bench"],
    "thin": ["--type", "thin", "-V", f"{SIZE}b", "--thinpool", "thin", "-an", "bench"],
}

#: One entry for each command that katacsi ran.
forked: list[str] = []


def lvm(*words: str) -> None:
    """Run LVM bare, with the same configuration."""
    settings = SETTINGS["linear"]
    argv = ["/usr/sbin/lvm", *words, "--config", configuration(settings, udev=True)]
    subprocess.run(
        argv, env={"PATH": "/usr/sbin:/sbin", **environment(settings)}, check=True, capture_output=True
    )


def floor(kind: str) -> None:
    """Run what a volume needs in any case."""
    lvm("lvcreate", "--yes", "-n", "bare", "-ky", "--addtag", "state=creating", *MAKING[kind])
    if kind == "linear":
        lvm("lvchange", "-an", "bench/bare")
        lvm("lvchange", "--deltag", "state=creating", "--addtag", "state=ready", "bench/bare")
    lvm("lvchange", "-ay", "-K", "bench/bare")
    lvm("lvchange", "-an", "bench/bare")
    lvm("lvremove", "--yes", "bench/bare")


async def ours(pool: LvmBackend, number: int) -> None:
    """Do the same through the backend."""
    volume = await pool.create(CreateRequest(f"pvc-{number}", SizeRange(SIZE)))
    await pool.attach(volume.id, {}, {})
    await pool.detach(volume.id)
    await pool.delete(volume.id)


async def timed(call) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    await call
    return 1e3 * (time.perf_counter() - started)


async def main() -> None:
    """Measure, and print."""
    run = command.run

    async def counted(argv, **options):  # type: ignore[no-untyped-def]
        forked.append(argv[0])
        return await run(argv, **options)

    command.run = counted
    lvm("vgcreate", "--yes", "bench", *DISKS)
    lvm("lvcreate", "--yes", "--type", "thin-pool", "-L", "512M", "-n", "thin", "bench")
    for kind, settings in SETTINGS.items():
        pool = LvmBackend(settings, PoolContext(kind, "bench.katacsi.io", "node-1"))
        await pool.start()
        rounds, bare = [], []
        forked.clear()
        for number in range(ROUNDS):
            # In turns, so that whatever else the machine does slows both.
            rounds.append(await timed(ours(pool, number)))
            bare.append(await timed(asyncio.to_thread(floor, kind)))
        mine, least = statistics.median(rounds), statistics.median(bare)
        each = len(forked) / ROUNDS
        print(f"{kind:7} {mine:7.0f} ms, bare {least:7.0f} ms, ratio {mine / least:.2f}, {each:.1f} commands")
        await pool.close()
    pool = LvmBackend(SETTINGS["thin"], PoolContext("thin", "bench.katacsi.io", "node-1"))
    await pool.start()
    made = 0
    for target in (10, 100):
        for number in range(made, target):
            await pool.create(CreateRequest(f"pvc-{number}", SizeRange(4 << 20)))
        made = target
        for name, call in (
            ("ListVolumes", lambda: pool.list("", 0)),
            ("GetCapacity", lambda: pool.capacity({})),
        ):
            group.FRESH_S = 0
            cold = [await timed(call()) for _ in range(10)]
            group.FRESH_S = 5
            warm = [await timed(call()) for _ in range(50)]
            print(
                f"{name} of {target} LVs: {statistics.median(cold):.0f} ms and 1 command, "
                f"{statistics.median(warm):.2f} ms and none within 5 s"
            )
    await pool.close()


asyncio.run(main())
