"""The guest's power is cut while it writes: what it had synced is there, and nothing is formatted."""

from __future__ import annotations

import pytest

from katacsi.host import superblock
from support.kata_node import MIB, digest, write

pytestmark = pytest.mark.timeout(240)

BUSY = "while true; do for i in $(seq 50); do echo $i > small-$i; done; sync; rm small-*; done"


async def test_the_journal_replays_in_the_next_guest(node, volume, machine_of_its_own):
    """ext4 and xfs at once: the host formats nothing and replays nothing, the next guest's kernel does."""
    volumes = {fs_type: volume(f"pvc-{fs_type}", fs_type=fs_type) for fs_type in ("ext4", "xfs")}
    for pvc in volumes.values():
        await pvc.up()
    before = {fs_type: (superblock.read(pvc.device()).uuid, pvc.facts) for fs_type, pvc in volumes.items()}
    made = node.mkfs_runs
    sandbox = node.sandbox("go", machine=machine_of_its_own)
    with sandbox:
        container = sandbox.create(*(pvc.mount(f"/{fs_type}") for fs_type, pvc in volumes.items()))
        synced = {fs_type: write(container, "synced", 2 * MIB, at=f"/{fs_type}") for fs_type in volumes}
        for fs_type in volumes:
            container.must(f"setsid sh -c '{BUSY}' >/dev/null 2>&1 &", at=f"/{fs_type}")
        container.run("sleep 2", at="/ext4")
        sandbox.kill()
    assert not superblock.read(volumes["ext4"].device()).clean
    for pvc in volumes.values():
        await pvc.down()
        await pvc.stage()
        await pvc.publish()
    assert not superblock.read(volumes["ext4"].device()).clean
    node.machine.run("dmesg -c >/dev/null")
    with node.sandbox("go") as sandbox:
        container = sandbox.create(*(pvc.mount(f"/{fs_type}") for fs_type, pvc in volumes.items()))
        for fs_type in volumes:
            assert digest(container, "synced", at=f"/{fs_type}") == synced[fs_type]
            write(container, "more", MIB, at=f"/{fs_type}")
        log = node.machine.run("dmesg").output
        assert "recovery complete" in log  # ext4
        assert "Ending recovery" in log  # xfs
    for fs_type, pvc in volumes.items():
        assert (superblock.read(pvc.device()).uuid, pvc.facts) == before[fs_type]
    assert node.mkfs_runs == made
    for pvc in volumes.values():
        await pvc.down()
        await pvc.delete()
