"""Volumes with a layer between the backend's device and their filesystem: a real device over a device."""

from __future__ import annotations

import subprocess

import pytest
import structlog

from katacsi import app
from katacsi.backends.api import Device
from katacsi.errors import VolumeInUse
from katacsi.host import block, holders, loop, loopdevices, superblock
from katacsi.host.offloop import off_loop
from katacsi.model import AccessType, VolumeId
from support.node import MIB, held, mounts_at

log = structlog.get_logger(__name__)


class Over:
    """A loop device over the device below."""

    def wanted(self, volume):
        return True

    async def open(self, volume, below, secrets):
        found = await self.opened(volume.id, below)
        return found or await off_loop(_open, below)

    async def opened(self, volume_id, below):
        return await off_loop(_opened, below)

    async def close(self, volume_id, below):
        if (found := await self.opened(volume_id, below)) is not None:
            await off_loop(_close, found)

    async def grow(self, volume, below):
        found = await self.opened(volume.id, below)
        return Device(found.path, await off_loop(loop.set_capacity, found.path))


def _open(below):
    words = ["losetup", "--find", "--show", "--sector-size", "4096", below.path]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return _opened(below) or pytest.fail(f"{done.stdout} is not over {below}")


def _opened(below):
    number = block.device_number(below.path)
    over = [device for device in loopdevices.devices() if device.backing_device == number]
    return Device(over[0].path, over[0].size_bytes) if over else None


def _close(device):
    if held_by := holders.lasting(device.path):  # losetup would wait for them behind our back
        raise VolumeInUse(f"{device.path} is held by {held_by[0]}")
    subprocess.run(["losetup", "--detach", device.path], check=True)


class Logged:
    """The simplest layer there can be: it only logs, and gives the device below as its own."""

    def wanted(self, volume):
        return True

    async def open(self, volume, below, secrets):
        log.debug("layer", step="open")
        return below

    async def opened(self, volume_id, below):
        return below

    async def close(self, volume_id, below):
        log.debug("layer", step="close")

    async def grow(self, volume, below):
        log.debug("layer", step="grow")
        return below


STACKS = {"over": (Over(),), "over, logged": (Over(), Logged()), "logged, over": (Logged(), Over())}


@pytest.fixture(autouse=True, params=STACKS)
def stack(request, monkeypatch):
    """Have every volume these layers."""
    monkeypatch.setattr(app, "LAYERS", STACKS[request.param])
    return request.param


def over(pvc):
    """Give the layer's device of a volume that is attached."""
    found = _opened(Device(pvc.device, 0))
    return found.path if found else None


@pytest.mark.parametrize("direct", [True, False])
async def test_a_volume_lives_on_its_layer(node, volume, direct):
    """The topmost device is formatted, handed over or mounted, survives a restart, and goes top down."""
    pvc = volume(direct=direct)
    await pvc.up()
    top = over(pvc)
    assert top != pvc.device
    if direct:
        assert node.record(pvc.target)["device"] == str(top)
    else:
        pvc.write()
    await node.restart()
    await pvc.publish()
    assert over(pvc) == top
    await pvc.down()
    assert node.devices == []
    await pvc.stage()
    await pvc.publish()
    if not direct:
        assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    await pvc.down()
    await pvc.delete()


async def test_a_layer_grows_with_its_volume(node, volume):
    """Bottom up: the device, the layer, the filesystem; and the record names the layer's device."""
    pvc = volume(direct=True)
    await pvc.up()
    assert await pvc.expand(pvc.size + 16 * MIB) == pvc.size + 16 * MIB
    assert block.size_bytes(over(pvc)) == block.size_bytes(pvc.device) == pvc.size + 16 * MIB
    assert node.record(pvc.target)["device"] == str(over(pvc))
    await pvc.down()


async def test_a_layer_is_given_the_secrets_of_each_call(volume, monkeypatch):
    """An encryption needs its key whenever it opens: at stage, at publish, and where a growth detaches."""
    given = []

    class Keyed(Logged):
        async def open(self, volume, below, secrets):
            given.append(dict(secrets))
            return below

    monkeypatch.setattr(app, "LAYERS", (*app.LAYERS, Keyed()))
    pvc = volume(direct=True)
    await pvc.node.restart()
    await pvc.up()
    given.clear()
    await pvc.expand(pvc.size + 16 * MIB, secrets={"key": "k"})
    assert given
    assert all(secrets == {"key": "k"} for secrets in given)
    await pvc.down()


async def test_whoever_holds_a_layer_holds_the_volume(node, volume):
    """Neither a next pod nor a detach gets past a holder of any level; the layer itself is no stranger."""
    pvc = volume(direct=True)
    await pvc.up()
    await pvc.unpublish()
    await node.restart()
    with held(over(pvc)):
        for call in (pvc.stage, pvc.publish, pvc.unstage, pvc.delete):
            with pytest.raises(VolumeInUse):
                await call()
    assert over(pvc) is not None
    await pvc.publish()
    await pvc.down()
    assert node.devices == []


async def test_a_raw_volume_is_its_layer_s_device(node, volume):
    """The pod's device node is the topmost one."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    assert block.device_number(pvc.target) == block.device_number(over(pvc))
    await pvc.down()
    assert mounts_at(pvc.target) == 0
    assert node.devices == []


async def test_a_volume_that_was_left_attached_is_deleted_with_its_layer(node, volume):
    """A stage whose marks were lost is cleared up by the deletion, from the top."""
    pvc = volume(direct=True)
    await pvc.create()
    await pvc.stage()
    await node.restart_without_facts()
    await pvc.delete()
    assert node.devices == []


@pytest.mark.gate("expand-never-lies")
async def test_a_layer_that_a_crash_left_smaller_follows(node, volume):
    """The device below grew and the driver died: a repeated expansion is true for the topmost device, too."""
    pvc = volume(direct=True)
    await pvc.up()
    size = pvc.size + 16 * MIB
    volume_id = VolumeId.parse(pvc.id)
    await (await node.driver.context.pools.holding(volume_id)).expand(volume_id, size)
    loop.set_capacity(pvc.device)
    await node.restart()
    assert await pvc.expand(size) == size
    assert block.size_bytes(over(pvc)) == size
    assert superblock.read(over(pvc)).size_bytes == size
    await pvc.down()


async def test_each_step_of_a_layer_is_taken(volume, stack):
    """Opened once, closed once; grown where it was open."""
    if "logged" not in stack:
        pytest.skip("this stack logs nothing")
    with structlog.testing.capture_logs() as lines:
        pvc = volume()
        await pvc.up()
        await pvc.down()
    assert [line["step"] for line in lines if line["event"] == "layer"].count("close") == 1
    assert any(line.get("step") == "open" for line in lines)
