"""A machine that is booted again with the same disks: volumes are there, and attached by katacsi alone."""

from __future__ import annotations

import json
import subprocess
import sys

from support import lab_host

SIZE = 1 << 30

COMMON = """
import asyncio, json, subprocess
from pathlib import Path
from katacsi.backends.api import ContentSource, PoolContext
from katacsi.backends.lvm import LvmBackend
from katacsi.testing import blockio
from support.lvm_pools import THIN_POOL, request
from support.real_lvm import DEVICES, DISKS, SCRATCH_DISK, VG, run

KINDS = ("linear", "raid1", "thin")

async def start():
    settings = LvmBackend.Settings(volume_group=VG, devices=DEVICES, thin_pool=THIN_POOL)
    pool = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
    await pool.start()
    return pool
"""

BEFORE = (
    COMMON
    + """
async def main():
    run("vgcreate", "--yes", VG, SCRATCH_DISK, *DISKS)
    run("lvcreate", "--yes", "--type", "thin-pool", "--size", "100M", "--name", THIN_POOL, VG)
    pool = await start()
    for kind in KINDS:
        volume = await pool.create(request(kind, type=kind))
        blockio.write(await pool.attach(volume.id, {}, {}), kind.encode())
    # A copy is under way, and a wipe, when the machine goes down.
    await pool.create_snapshot("s", (await pool.find("linear")).id)
    await pool.create(request("doomed", type="linear", wipe="zero"))
    tags = "--deltag katacsi.io/state=ready --addtag katacsi.io/state=deleting".split()
    run("lvchange", *tags, f"{VG}/kv-doomed")
    run("sync")
    print("down", flush=True)
    Path("/proc/sysrq-trigger").write_text("o")
    await asyncio.sleep(60)

asyncio.run(main())
"""
)

AFTER = (
    COMMON
    + """
async def main():
    # What a distribution does at boot.
    run("vgchange", "--activate", "ay", "--sysinit", VG)
    run("vgchange", "--activate", "ay", VG)
    pool = await start()
    found = {}
    for kind in KINDS:
        volume = await pool.find(kind)
        active = await pool.attached(volume.id) is not None
        data = blockio.read(await pool.attach(volume.id, {}, {}), len(kind)).decode()
        found[kind] = [active, data]
    while not (snapshot := await pool.create_snapshot("s", (await pool.find("linear")).id)).ready:
        await asyncio.sleep(0.2)
    copy = await pool.create(request("b", 0, ContentSource(snapshot.id), type="linear"))
    found["restored"] = blockio.read(await pool.attach(copy.id, {}, {}), 6).decode()
    for _ in range(100):
        names = run("lvs", "--noheadings", "--options", "lv_name", VG).split()
        if "kv-doomed" not in names:
            break
        await asyncio.sleep(0.2)
    found["names"] = sorted(names)
    await pool.close()
    print(json.dumps(found))

asyncio.run(main())
"""
)


def test_volumes_survive_a_reboot(tmp_path):
    """Nothing activates volumes at boot; attached, they have their bytes. What was under way is finished."""
    lab_host.needs(engine := lab_host.engine())
    disks = [tmp_path / "disk0", tmp_path / "disk1"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(SIZE)

    def boot(script):
        return subprocess.run(
            [
                sys.executable, lab_host.LAB, "run", *(f"--disk={disk}" for disk in disks), "--timeout=200",
                f"--env=PYTHONPATH={lab_host.TREE / 'tests'}", "--", sys.executable, "-c", script,
            ],
            cwd=lab_host.TREE, env=engine.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    before = boot(BEFORE)
    # 125: the machine went off before the command had ended, which is what it was told to do.
    assert (before.returncode, before.stdout.splitlines()[-1:]) == (125, ["down"]), before.stderr
    after = boot(AFTER)
    assert after.returncode == 0, after.stdout + after.stderr
    found = json.loads(after.stdout.splitlines()[-1])
    assert {kind: found[kind] for kind in ("linear", "raid1", "thin")} == {
        "linear": [False, "linear"],
        "raid1": [False, "raid1"],
        "thin": [False, "thin"],
    }
    assert found["restored"] == "linear"
    assert found["names"] == ["ks-s", "kv-b", "kv-linear", "kv-raid1", "kv-thin", "thinpool"]
