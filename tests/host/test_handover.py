"""Volumes whose records `kata-runtime` writes; however it or the driver ends, the kubelet's retry goes on."""

import pytest

from katacsi.errors import HostError
from support import kata_runtime_command
from support.node import MIB, mounts_at


@pytest.fixture
async def node(node):
    """Serve by the command."""

    async def by_command(**variables):
        program = kata_runtime_command.install(node.scratch, node.records, **variables)
        chosen = {"handover": "kata-runtime", "kata_runtime": str(program)}
        await node.restart(direct_volume=chosen)

    node.by_command = by_command
    await by_command()
    return node


@pytest.fixture
def pvc(volume):
    """A direct volume, not yet there."""
    return volume("pvc-1", direct=True)


async def test_a_volume_lives_by_the_command(node, pvc):
    """Published twice, grown, unpublished twice; its record is the one that katacsi itself would write."""
    await pvc.up()
    await pvc.publish()
    assert await pvc.expand(32 * MIB) == 32 * MIB
    record = node.record_file(pvc.target).read_bytes()
    await pvc.unpublish()
    await pvc.unpublish()
    assert list(node.records.iterdir()) == []
    await node.restart(direct_volume={"handover": "file"})
    await pvc.publish()
    assert node.record_file(pvc.target).read_bytes() == record
    await pvc.down()


@pytest.mark.parametrize("dies", ["folder", "torn"])
async def test_a_command_that_dies_leaves_no_publish(node, pvc, dies):
    """Neither record nor guard; the retry publishes."""
    await pvc.create()
    await pvc.stage()
    await node.by_command(dies=dies)
    with pytest.raises(HostError, match="SIGKILL"):
        await pvc.publish()
    assert list(node.records.iterdir()) == []
    assert mounts_at(pvc.target) == 0
    await node.by_command()
    await pvc.publish()
    assert node.record(pvc.target)["device"] == str(pvc.device)
    await pvc.down()


@pytest.mark.parametrize("length", [0, 1, 20, -1])
async def test_half_a_record_is_mended_by_the_next_publish(node, pvc, length):
    """Driver and command were killed together: the guard is there, and half of the record."""
    await pvc.up()
    file = node.record_file(pvc.target)
    record = file.read_bytes()
    file.write_bytes(record[:length])
    await node.restart()
    await pvc.publish()
    assert file.read_bytes() == record
    file.write_bytes(record[:length])
    await node.restart()
    await pvc.down()
    assert list(node.records.iterdir()) == []
