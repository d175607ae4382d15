"""What is advertised is there, and what is not advertised is not."""

from __future__ import annotations

import itertools

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Features, Role, Scope
from katacsi.csi.capabilities import Offer
from katacsi.csi.methods import METHODS
from support.door import EVERYTHING, ScriptedWorkflows, open_door

ControllerRpc = csi.ControllerServiceCapabilityRpcType
NodeRpc = csi.NodeServiceCapabilityRpcType

#: CSI 1.13, "RPC Interface": which RPCs each capability obliges a plugin to. Written down a second time, from
#: the specification, because the driver's own table is what is under test.
OBLIGES_CONTROLLER = {
    1: {"CreateVolume", "DeleteVolume"},
    2: {"ControllerPublishVolume", "ControllerUnpublishVolume"},
    3: {"ListVolumes"},
    4: {"GetCapacity"},
    5: {"CreateSnapshot", "DeleteSnapshot"},
    6: {"ListSnapshots"},
    9: {"ControllerExpandVolume"},
    12: {"ControllerGetVolume"},
    14: {"ControllerModifyVolume"},
    15: {"GetSnapshot"},
    16: {"ControllerGetVolumeHealth"},
    17: {"ControllerListVolumeHealth"},
}
OBLIGES_NODE = {
    1: {"NodeStageVolume", "NodeUnstageVolume"},
    2: {"NodeGetVolumeStats"},
    3: {"NodeExpandVolume"},
    7: {"NodeGetVolumeHealth"},
    8: {"NodeGetStorageHealth"},
}
WITH_IDENTITY = {"GetPluginInfo", "GetPluginCapabilities", "Probe"}
WITH_CONTROLLER = {"ValidateVolumeCapabilities", "ControllerGetCapabilities"}
WITH_NODE = {"NodePublishVolume", "NodeUnpublishVolume", "NodeGetCapabilities", "NodeGetInfo"}
#: The values that the code of csi-sanity v5.5 (CSI 1.12) has a case for.
KNOWN_TO_1_12_CONTROLLER = set(range(1, 16))
KNOWN_TO_1_12_NODE = set(range(1, 7))

FEATURES = [
    Features(snapshots=snapshots, clones=clones, expand=expand)
    for snapshots, clones, expand in itertools.product((False, True), repeat=3)
]


class Network:
    async def publish(self, request):
        return {"lun": "1"}

    async def unpublish(self, volume_id, node_id):
        pass

    async def expand(self, request):
        return 7


async def answers(channel, path: str) -> bool:
    """Whether a method exists, asked with an empty message (which does nothing but fail)."""
    service, name = path.split("/")[1:]
    stub = getattr(csi, service.removeprefix("csi.v1.") + "Stub")(channel)
    request = getattr(csi, f"{name}Request")()
    try:
        method = getattr(stub, "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_"))
        if path.startswith("/csi.v1.SnapshotMetadata/"):
            _ = [each async for each in method(request)]
        else:
            await method(request)
    except GRPCError as error:
        # The driver's own words name the method; grpclib's "not found" would not.
        return not (error.status is Status.UNIMPLEMENTED and name in error.message)
    return True


async def advertised(door, role: Role) -> set[str]:
    """The methods that the driver's answers promise to a caller who reads the specification."""
    names = set(WITH_IDENTITY)
    plugin = await door.identity.get_plugin_capabilities(csi.GetPluginCapabilitiesRequest())
    services = {each.service.type for each in plugin.capabilities if each.service is not None}
    if csi.PluginCapabilityServiceType.CONTROLLER_SERVICE in services:
        names |= WITH_CONTROLLER
        answer = await door.controller.controller_get_capabilities(csi.ControllerGetCapabilitiesRequest())
        for each in answer.capabilities:
            names |= OBLIGES_CONTROLLER.get(int(each.rpc.type), set())
    if role is not Role.CONTROLLER:
        names |= WITH_NODE
        answer = await door.node.node_get_capabilities(csi.NodeGetCapabilitiesRequest())
        for each in answer.capabilities:
            names |= OBLIGES_NODE.get(int(each.rpc.type), set())
    return names


@pytest.mark.gate("no-advertised-but-unimplemented-rpc")
@pytest.mark.parametrize("newer", [False, True], ids=["csi-1.12", "newer"])
@pytest.mark.parametrize("network", [None, Network()], ids=["local", "network"])
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
async def test_exactly_the_advertised_methods_answer(role, network, newer):
    """Whatever the pools can do: a method answers if and only if its capability is advertised."""
    for features in FEATURES:
        workflows = ScriptedWorkflows(features)
        async with open_door(workflows, role=role, network=network, newer=newer) as door:
            there = {path.rpartition("/")[2] for path in METHODS if await answers(door.channel, path)}
            assert there == await advertised(door, role), features


@pytest.mark.parametrize("scope", list(Scope))
def test_nothing_newer_than_1_12_without_the_setting(scope):
    """Test suites and sidecars of CSI 1.12 find no value they do not know, unless somebody asks for it."""
    offer = Offer(scope=scope, features=EVERYTHING)
    assert set(map(int, offer.controller())) <= KNOWN_TO_1_12_CONTROLLER
    assert set(map(int, offer.node())) <= KNOWN_TO_1_12_NODE


@pytest.mark.parametrize("scope", list(Scope))
def test_newer_adds_and_takes_nothing_away(scope):
    """The setting for newer capabilities brings health; callers of CSI 1.12 still find all they know."""
    older, newer = (Offer(scope=scope, features=EVERYTHING, newer=newer) for newer in (False, True))
    added = {ControllerRpc.GET_VOLUME_HEALTH, ControllerRpc.LIST_VOLUME_HEALTH}
    assert set(newer.controller()) - set(older.controller()) == added
    assert set(newer.node()) - set(older.node()) == {NodeRpc.GET_VOLUME_HEALTH}
    assert set(older.controller()) < set(newer.controller())
    assert set(older.node()) < set(newer.node())


@pytest.mark.parametrize("scope", list(Scope))
def test_read_write_once_means_the_same_on_both_sides(scope):
    """SINGLE_NODE_MULTI_WRITER is on both sides: Kubernetes looks at both before it sends that mode."""
    offer = Offer(scope=scope)
    assert ControllerRpc.SINGLE_NODE_MULTI_WRITER in offer.controller()
    assert NodeRpc.SINGLE_NODE_MULTI_WRITER in offer.node()


def test_local_volumes_grow_on_their_node_alone():
    """A local release offers node expansion without the controller's; a network release offers both."""
    local, network = (Offer(scope=scope, features=EVERYTHING) for scope in (Scope.LOCAL, Scope.NETWORK))
    assert ControllerRpc.EXPAND_VOLUME not in local.controller()
    assert NodeRpc.EXPAND_VOLUME in local.node()
    assert ControllerRpc.EXPAND_VOLUME in network.controller()
    assert NodeRpc.EXPAND_VOLUME in network.node()


@pytest.mark.parametrize("scope", list(Scope))
def test_no_growth_where_no_pool_can_grow(scope):
    """Neither side offers expansion when no pool has it."""
    offer = Offer(scope=scope)
    assert ControllerRpc.EXPAND_VOLUME not in offer.controller()
    assert NodeRpc.EXPAND_VOLUME not in offer.node()


async def test_expansion_is_offered_as_online():
    """The plugin says ONLINE if and only if a pool can grow volumes."""
    for expand in (False, True):
        async with open_door(ScriptedWorkflows(Features(expand=expand))) as door:
            answer = await door.identity.get_plugin_capabilities(csi.GetPluginCapabilitiesRequest())
            found = [each.volume_expansion.type for each in answer.capabilities if each.volume_expansion]
            assert found == [csi.PluginCapabilityVolumeExpansionType.ONLINE] * expand


async def test_offer_follows_the_pools():
    """A pool that opens late brings its capabilities without a restart."""
    workflows = ScriptedWorkflows(Features())
    async with open_door(workflows) as door:
        assert not await answers(door.channel, "/csi.v1.Controller/CreateSnapshot")
        workflows.features = EVERYTHING
        assert await answers(door.channel, "/csi.v1.Controller/CreateSnapshot")
