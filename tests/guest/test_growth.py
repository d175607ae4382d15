"""Growing a direct volume: without a guest, beside one that cannot resize, and with one that can."""

from __future__ import annotations

import pytest

from katacsi.csi.client import RpcError
from katacsi.host import block
from support.kata_node import MIB, digest, write

pytestmark = [pytest.mark.timeout(180), pytest.mark.gate("expand-never-lies")]

GROWN = 64 * MIB


def size_in(container):
    """Count the bytes of the filesystem as the workload sees it; its own tables take a part."""
    size, blocks = container.must("stat -f -c '%S %b' .").split()
    return int(size) * int(blocks)


async def refused(pvc, size):
    """Expand, which has to be refused; give the message."""
    with pytest.raises(RpcError) as refusal:
        await pvc.expand(size)
    assert refusal.value.code == "FAILED_PRECONDITION"
    return refusal.value.message


async def test_a_running_guest_gets_the_new_size_at_its_next_start(node, volume, runtime):
    """Stock Kata cannot resize: the device grows, the call says what to do, and the restart does it."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        written, small = write(container, "data", MIB), size_in(container)
        message = await refused(pvc, GROWN)
        assert "restart the pod to use the new size" in message
        assert block.size_bytes(pvc.device()) == GROWN
        assert size_in(container) == small
        assert digest(container, "data") == written
    await pvc.down()
    await pvc.stage()
    await pvc.publish()
    assert (await pvc.expand(GROWN)).capacity_bytes == GROWN
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        assert size_in(container) > GROWN - 8 * MIB
        assert digest(container, "data") == written
    await pvc.down()


async def test_a_workload_scaled_to_zero_starts_with_the_new_size(node, volume, runtime):
    """No guest has the device: the expansion after the next publish grows it before any container starts."""
    pvc = volume()
    await pvc.up()
    with node.sandbox(runtime) as sandbox:
        written = write(sandbox.create(pvc.mount()), "data", MIB)
    await pvc.down()
    await pvc.stage()
    await pvc.publish()
    assert (await pvc.expand(GROWN)).capacity_bytes == GROWN
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        assert size_in(container) > GROWN - 8 * MIB
        assert digest(container, "data") == written
    await pvc.down()


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_runtime_that_resizes_grows_online(node, volume, runtime, fs_type):
    """The guest is told, grows its filesystem while it is used, and nothing is left for later."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    with node.sandbox(runtime, resizes=True) as sandbox:
        container = sandbox.create(pvc.mount())
        written, small = write(container, "data", MIB), size_in(container)
        grown = 2 * pvc.size
        assert (await pvc.expand(grown)).capacity_bytes == grown
        assert size_in(container) > small + pvc.size - 8 * MIB
        assert digest(container, "data") == written
        assert (await pvc.expand(grown)).capacity_bytes == grown
    await pvc.down()


async def test_an_xfs_of_a_guest_does_not_grow(node, volume, runtime):
    """Only a mount could grow it, and the host does not mount it: refused before the device grows."""
    pvc = volume(fs_type="xfs")
    await pvc.up()
    size = block.size_bytes(pvc.device())
    with node.sandbox(runtime) as sandbox:
        container = sandbox.create(pvc.mount())
        write(container, "data", MIB)
        for _ in range(2):
            message = await refused(pvc, 2 * size)
            assert "guest_filesystems" in message
            assert "nothing was changed" in message
        assert block.size_bytes(pvc.device()) == size
    await pvc.down()
