"""NodeGetVolumeStats of a direct volume: the guest's own numbers, by way of its shim."""

from __future__ import annotations

import pytest

from katacsi.csi.client import csi
from support.kata_node import MIB, write

pytestmark = pytest.mark.timeout(180)

BYTES, INODES = csi.VolumeUsageUnit.BYTES, csi.VolumeUsageUnit.INODES


def seen_in(container):
    """What statfs(2) shows in the guest; the agent takes all free blocks for available."""
    size, blocks, free, files, free_files = map(
        int, container.must("sync; stat -f -c '%S %b %f %c %d' .").split()
    )
    return {
        BYTES: (blocks * size, free * size, (blocks - free) * size),
        INODES: (files, free_files, files - free_files),
    }


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_the_numbers_are_the_guest_s(node, volume, runtime, fs_type):
    """Bytes and inodes, before and after the workload writes; never those of the host's folder."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        assert await pvc.numbers() == seen_in(container)
        before = seen_in(container)
        write(container, "data", 8 * MIB)
        assert await pvc.numbers() == seen_in(container)
        assert seen_in(container)[BYTES][2] >= before[BYTES][2] + 8 * MIB
        assert seen_in(container)[INODES][2] == before[INODES][2] + 1
    await pvc.down()


async def test_without_a_guest_only_the_size_is_known(node, volume, runtime):
    """After the pod is gone the shim cannot tell, and a guess would be worse than nothing."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        write(sandbox.create(pvc.mount()), "data", MIB)
    assert await pvc.numbers() == {BYTES: (pvc.size, 0, 0)}
    await pvc.down()


async def test_two_volumes_of_a_pod_are_told_apart(node, volume, runtime):
    """Each is asked for by its own device, or by the guest's own path."""
    large, small = volume("pvc-large", size=96 * MIB), volume("pvc-small", size=32 * MIB)
    for pvc in (large, small):
        await pvc.up()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(large.mount("/large"), small.mount("/small"))
        write(container, "data", MIB, at="/large")
        for pvc, at in ((large, "/large"), (small, "/small")):
            total, _, used = (await pvc.numbers())[BYTES]
            assert str(total) == container.must("stat -f -c '%S %b' . | awk '{print $1 * $2}'", at=at)
            assert (used > MIB) == (pvc is large)
    for pvc in (large, small):
        await pvc.down()
