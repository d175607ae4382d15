"""A release in the network: a controller and two nodes over one appliance, by the calls of CSI."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi.app import pools_of
from katacsi.backends import registry
from katacsi.backends.api import Device
from katacsi.errors import (
    AlreadyExists,
    NotFound,
    Precondition,
    SettingsError,
    StillWorking,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import mount as mounts
from katacsi.model import AccessMode, SizeRange, VolumeId
from katacsi.settings import parse
from katacsi.testing import blockio, leaks
from katacsi.volumes import nodes
from katacsi.volumes.requests import ControllerExpand, ControllerPublish
from support.network import Reporting, Volume


async def test_a_volume_follows_its_pod(release):
    """What a pod wrote on one node is there on the next; at no moment both have the volume."""
    controller, one, two = release
    volume = Volume(controller)
    view = await volume.create()
    assert view.topology == ()
    here, there = volume.on(one), volume.on(two)
    await here.up_on(controller)
    here.write("data", b"kept")
    with pytest.raises(VolumeInUse, match="node-1"):
        await there.reached(controller)
    await here.down()
    await controller.driver.fencing.unpublish(volume.id, (await one.driver.node.info()).node_id)
    await there.up_on(controller)
    assert (there.target / "data").read_bytes() == b"kept"
    with pytest.raises(VolumeInUse):
        await volume.delete()
    await there.down()
    await controller.driver.fencing.unpublish(volume.id, "")
    await volume.delete()


async def test_a_fenced_node_gets_nothing_to_work(release):
    """After unpublish the node's own context opens nothing, also not to a process that was restarted."""
    controller, one, _ = release
    volume = Volume(controller)
    await volume.create()
    here = volume.on(one)
    context = await here.reached(controller)
    await controller.driver.fencing.unpublish(volume.id, "")
    await one.restart()
    with pytest.raises(Precondition, match="is not published to node-1"):
        await here.stage(publish_context=context)


async def test_calls_of_a_controller_are_those_of_csi(release):
    """Repeated, with other access, of what is absent, and of nodes and ids that nobody gave out."""
    controller, one, _ = release
    volume = Volume(controller)
    await volume.create()
    here, fencing = volume.on(one), controller.driver.fencing
    assert await here.reached(controller) == await here.reached(controller)
    with pytest.raises(AlreadyExists):
        await here.reached(controller, read_only=True)
    with pytest.raises(NotFound, match="node-9"):
        await fencing.publish(
            ControllerPublish(volume.id, "node-9?iqn=iqn.2026-01.io.katacsi:node-9", volume.capability())
        )
    for node_id in ("?iqn=x", "node-1?iqn"):
        with pytest.raises(NotFound, match="not a node id"):
            await fencing.publish(ControllerPublish(volume.id, node_id, volume.capability()))
    with pytest.raises(NotFound):
        await fencing.publish(ControllerPublish("v1:no", "node-1", volume.capability()))
    with pytest.raises(Precondition, match="reported"):
        await fencing.publish(ControllerPublish(volume.id, "node-1", volume.capability()))
    with pytest.raises(Unsupported, match="cannot grow"):
        await fencing.expand(ControllerExpand(volume.id, SizeRange(volume.size * 2)))
    for volume_id, node_id in ((volume.id, "node-9"), ("v1:no", "node-1"), (volume.id, "?x")):
        await fencing.unpublish(volume_id, node_id)
    with pytest.raises(VolumeInUse):
        await here.on(release[2]).reached(controller)
    await fencing.unpublish(volume.id, "")
    await fencing.unpublish(volume.id, "")
    reader = Volume(one, mode=AccessMode.SINGLE_NODE_READER_ONLY)
    reader.id = volume.id
    await reader.reached(controller)
    with pytest.raises(AlreadyExists):
        await here.reached(controller)


async def test_teardown_knows_what_the_stage_was_given(release, monkeypatch):
    """detach, attached and condition are given the publish context of the stage, also after a restart."""
    controller, one, _ = release
    volume = Volume(controller)
    await volume.create()
    here = volume.on(one)
    await here.up_on(controller)
    given = {}

    def noting(name):
        real = getattr(Reporting, name)

        async def noted(self, volume_id, attachment=None):
            given[name] = attachment
            return await real(self, volume_id, attachment)

        return noted

    for name in ("detach", "attached", "condition"):
        monkeypatch.setattr(Reporting, name, noting(name))
    await one.restart()
    await here.stats()
    await here.down()
    for attachment in given.values():
        assert attachment.publish_context == {"generation": "1"}
        assert attachment.device.name.startswith("loop")
    assert set(given) == {"detach", "attached", "condition"}


async def test_a_guest_that_lives_on_keeps_its_device(release, monkeypatch):
    """Unstage and delete look for holders themselves: a backend that forgets to is none the worse."""
    controller, one, _ = release
    volume = Volume(controller)
    await volume.create()
    here = volume.on(one)
    await here.up_on(controller)
    await here.unpublish()
    (device,) = leaks.loops_below(controller.scratch.parent / "appliance")
    for name in ("detach", "delete"):
        monkeypatch.setattr(Reporting, name, _careless)
    mounts.unmount(here.staging)
    with blockio.held_by_guest(Device(device, volume.size)):
        with pytest.raises(VolumeInUse, match=f"{device} is held by"):
            await here.unstage()
        backend = await one.driver.context.pools.holding(VolumeId.parse(volume.id))
        stack = one.driver.context.volumes.devices_of(backend, VolumeId.parse(volume.id))
        assert await stack.look()
        with pytest.raises(VolumeInUse, match=f"{device} is held by"):
            await stack.require_unheld()
    monkeypatch.undo()


async def _careless(self, volume_id, attachment=None):
    """Answer OK without a look."""


async def test_what_is_still_being_made_is_given_to_nobody(release, monkeypatch):
    """A volume that is not ready: create and publish say "come again", and delete takes it away."""
    controller, one, _ = release
    volume = Volume(controller)
    await volume.create()
    context = await volume.on(one).reached(controller)
    real = Reporting.do_get

    async def half(self, volume_id):
        found = real(self, volume_id)
        return found and replace(found, ready=False)

    monkeypatch.setattr(Reporting, "get", half)
    with pytest.raises(StillWorking, match="is still being made"):
        await volume.on(one).reached(controller)
    with pytest.raises(StillWorking, match="is still being made"):
        await volume.on(one).stage(publish_context=context)
    assert not leaks.loops_below(controller.scratch.parent / "appliance")
    await controller.driver.fencing.unpublish(volume.id, "")
    await volume.delete()


def test_local_and_network_pools_do_not_mix(scratch, monkeypatch):
    """One driver has pools of one kind; the message says to install twice."""
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda name: Reporting if name == "appliance" else real(name))
    pools = {
        "near": {"backend": "loopfile", "directory": str(scratch)},
        "far": {"backend": "appliance", "disks": str(scratch), "state": str(scratch)},
    }
    with pytest.raises(SettingsError, match=r"far: in the network, and near: on a node.*Install.*twice"):
        pools_of(parse({"pools": pools}, where="test"), "node-1")


async def test_the_node_s_folder_is_there_and_nobody_else_s(release):
    """A pool in the network finds a folder of its own on each node, for itself alone."""
    controller, one, _ = release
    assert not (controller.scratch / "node").exists()
    folder = one.scratch / "node" / "default"
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_node_ids_can_be_read_back():
    """A name with facts travels as one CSI node id, in 192 bytes, and comes back the same."""
    plain = nodes.Node("node-1")
    told = nodes.Node(
        "node-1", {"nqn": "nqn.2014-08.org:uuid", "addr": "[fd00::1],10.0.0.1", "iqn": "a&b=c d?"}
    )
    assert nodes.encoded(plain) == "node-1"
    assert nodes.encoded(told).startswith("node-1?addr=[fd00::1],10.0.0.1&iqn=")
    for node in (plain, told):
        assert nodes.decoded(nodes.encoded(node)) == node
    with pytest.raises(Precondition, match="Kubernetes takes 192"):
        nodes.encoded(nodes.Node("n" * 63, {"iqn": "i" * 130}))
