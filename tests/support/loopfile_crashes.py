"""Kill a loopfile pool before and after every host call of an operation, start it anew, and repeat the call.

Run as a program: `python loopfile_crashes.py FOLDER [OPERATION...]`, with an empty folder for the pool. It
forks a process for each point, which is why it must not have threads of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import sys
import traceback
from pathlib import Path

from katacsi.backends.api import ContentSource, CreateRequest, FormatState, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.host import block, files, loop
from katacsi.model import MIB, SnapshotId, VolumeId

KILLED = 99
FORMATTED = {
    "format": FormatState.FORMATTED,
    "fs_type": "ext4",
    "fs_uuid": "6b1f2a52-0e5c-4c8e-9a53-000000000004",
}


def wish(name, size=MIB, **more):
    return CreateRequest(name, SizeRange(size), **more)


def volume_id(pool, name):
    return VolumeId("pool", pool.pool_uid, name)


async def nothing(pool):
    """Begin with an empty pool, or only start."""


async def one_volume(pool):
    """Begin with a volume that has data."""
    volume = await pool.create(wish("a"))
    device = await pool.attach(volume.id, {}, {})
    with device.path.open("r+b") as file:
        file.write(b"data")
    await pool.detach(volume.id)


async def attached_volume(pool):
    await one_volume(pool)
    await pool.attach(volume_id(pool, "a"), {}, {})


async def one_snapshot(pool):
    await one_volume(pool)
    await pool.create_snapshot("s", volume_id(pool, "a"))


async def create(pool):
    volume = await pool.create(wish("b", 2 * MIB))
    assert volume == await pool.find("b")
    assert volume.size_bytes == 2 * MIB
    assert await pool.is_blank(volume.id)


async def create_thick(pool):
    volume = await pool.create(wish("b", 2 * MIB, parameters={"allocation": "thick"}))
    assert volume == await pool.get(volume.id)
    assert await pool.is_blank(volume.id)


async def clone_thick(pool):
    await clone(pool, {"allocation": "thick"})


async def clone(pool, parameters=None):
    source = ContentSource(volume_id(pool, "a"))
    volume = await pool.create(wish("b", 2 * MIB, source=source, parameters=parameters or {}))
    await holds_data(pool, "b")
    assert volume.size_bytes == 2 * MIB


async def restore(pool):
    source = ContentSource(SnapshotId("pool", pool.pool_uid, "s"))
    await pool.create(wish("b", source=source))
    await holds_data(pool, "b")


async def snapshot(pool):
    await pool.create_snapshot("s", volume_id(pool, "a"))
    assert (await pool.find_snapshot("s")).size_bytes == MIB
    await restore(pool)


async def delete(pool):
    await pool.delete(volume_id(pool, "a"))
    assert await pool.find("a") is None


async def delete_snapshot(pool):
    await pool.delete_snapshot(SnapshotId("pool", pool.pool_uid, "s"))
    assert await pool.find_snapshot("s") is None


async def expand(pool):
    assert await pool.expand(volume_id(pool, "a"), 4 * MIB) == 4 * MIB
    assert await pool.refresh(volume_id(pool, "a")) == 4 * MIB
    assert (await pool.find("a")).size_bytes == 4 * MIB


async def set_facts(pool):
    volume = await pool.find("a")
    facts = volume.facts.with_(**FORMATTED)
    if volume.facts != facts:
        assert volume.facts.format is FormatState.UNFORMATTED
        await pool.compare_and_set_facts(volume.id, volume.facts, facts)
    assert (await pool.find("a")).facts == facts


async def attach_and_detach(pool):
    await pool.attach(volume_id(pool, "a"), {}, {})
    await holds_data(pool, "a")
    await pool.detach(volume_id(pool, "a"))
    assert await pool.attached(volume_id(pool, "a")) is None


async def holds_data(pool, name):
    device = await pool.attach(volume_id(pool, name), {}, {})
    with device.path.open("rb") as file:
        assert file.read(4) == b"data"


SCENARIOS = [
    (None, nothing),
    (one_snapshot, nothing),
    (nothing, create),
    (nothing, create_thick),
    (one_volume, clone),
    (one_volume, clone_thick),
    (one_volume, snapshot),
    (one_snapshot, restore),
    (one_volume, delete),
    (attached_volume, delete),
    (one_snapshot, delete_snapshot),
    (attached_volume, expand),
    (one_volume, set_facts),
    (one_volume, attach_and_detach),
]


def kill_at(point):
    """Make the process die at its point-th step: even ones before a host call, odd ones after it."""
    steps = iter(range(1 << 30))

    def step():
        if next(steps) == point:
            os._exit(KILLED)

    def killing(function):
        def call(*args, **kwargs):
            step()
            result = function(*args, **kwargs)
            step()
            return result

        return call

    for module in (files, loop, block):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("_"):
                setattr(module, name, killing(function))


def in_a_process(folder, *actions, point=None):
    """Start the pool in a process of its own, do something, close it; gives the exit code."""

    async def live():
        context = PoolContext("pool", "test.katacsi.io", "node-1")
        pool = LoopfileBackend(LoopfileSettings(directory=folder), context)
        if point is not None and nothing in actions:
            kill_at(point)
        await pool.start()
        if point is not None and nothing not in actions:
            kill_at(point)
        for action in actions:
            await action(pool)
        await pool.close()

    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        asyncio.run(live())
        os._exit(0)
    except Exception:  # noqa: BLE001 -- of a child process, whose only way to tell is its exit code
        traceback.print_exc()
        os._exit(1)


def clear(folder):
    """Leave an empty folder, and no loop device of it."""
    for image in folder.rglob("*.img"):
        loop.ensure_detached(image)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def main(folder, *only):
    """Try every point of every scenario, or of those named; the exit code says whether all were survived."""
    survived = True
    for prepare, act in SCENARIOS:
        if only and act.__name__ not in only:
            continue
        name = f"{act.__name__} after {prepare.__name__ if prepare else 'nothing at all'}"
        point = 0
        while True:
            clear(folder)
            if prepare and in_a_process(folder, prepare):
                sys.exit(f"{prepare.__name__} fails by itself")
            code = in_a_process(folder, act, point=point)
            if code == 0:
                break
            again = in_a_process(folder, act)
            left = [str(path) for path in folder.rglob(".*") if path.name != ".lock"]
            if code != KILLED or again or left:
                survived = False
                sys.stdout.write(f"{name}, point {point}: {code}, then {again}; left: {left}\n")
            point += 1
        sys.stdout.write(f"{name}: {point} points\n")
    return 0 if survived else 1


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
    finally:
        clear(Path(sys.argv[1]))
