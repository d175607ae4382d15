"""Each RPC over a channel: the workflow is asked once, with the parsed request, and its answer comes back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Capacity, Snapshot, Volume
from katacsi.csi import condition
from katacsi.errors import NotFound
from katacsi.model import Condition, ContentSource, SizeRange, SnapshotId, Topology, VolumeId
from katacsi.volumes.requests import (
    NodeInfo,
    SnapshotPage,
    Stats,
    Unit,
    Usage,
    Validation,
    VolumePage,
    VolumeView,
)
from support.door import ScriptedWorkflows, open_door

VOLUME = VolumeId("fast", "0123abcd", "pvc-1")
SNAPSHOT = SnapshotId("fast", "0123abcd", "snap-1")
HERE = Topology({"topology.local.katacsi.io/node": "worker-1"})
SICK = Condition(abnormal=True, message="the device is gone")


def view(source=None, health=SICK):
    volume = Volume(VOLUME, "pvc-1", 5 << 30, source=source and ContentSource(source))
    return VolumeView(volume, {"katacsi.io/direct": "auto"}, (HERE,), health)


def capability():
    return csi.VolumeCapability(
        mount=csi.VolumeCapabilityMountVolume(fs_type="ext4"),
        access_mode=csi.VolumeCapabilityAccessMode(
            mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER
        ),
    )


async def test_plugin_info_is_the_release(door):
    """The driver is named as it was configured, with its version."""
    info = await door.identity.get_plugin_info(csi.GetPluginInfoRequest())
    assert (info.name, info.vendor_version) == ("local.katacsi.io", "1.2.3")


async def test_created_volume_is_told_in_full(door):
    """The answer of CreateVolume has id, size, context, topology and the source it was made from."""
    door.workflows.answers["provisioning.create"] = view(SNAPSHOT)
    answer = await door.controller.create_volume(
        csi.CreateVolumeRequest(name="pvc-1", volume_capabilities=[capability()])
    )
    volume = answer.volume
    assert (volume.volume_id, volume.capacity_bytes) == (str(VOLUME), 5 << 30)
    assert volume.volume_context == {"katacsi.io/direct": "auto"}
    assert [place.segments for place in volume.accessible_topology] == [HERE.segments]
    assert volume.content_source.snapshot.snapshot_id == str(SNAPSHOT)
    assert volume.content_source.volume is None


async def test_clone_names_its_source_volume(door):
    """The content source of a clone is a volume, not a snapshot."""
    door.workflows.answers["provisioning.get"] = view(VOLUME)
    answer = await door.controller.controller_get_volume(
        csi.ControllerGetVolumeRequest(volume_id=str(VOLUME))
    )
    assert answer.volume.content_source.volume.volume_id == str(VOLUME)
    assert answer.volume.content_source.snapshot is None


async def test_conditions_come_with_get_list_and_stats(door):
    """All three answers that had a volume condition up to CSI 1.12 have the volume's own."""
    door.workflows.answers |= {
        "provisioning.get": view(),
        "provisioning.list": VolumePage((view(), view(health=Condition())), "next"),
        "usage.stats": Stats((), SICK),
    }
    got = await door.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"))
    listed = await door.controller.list_volumes(csi.ListVolumesRequest())
    stats = await door.node.node_get_volume_stats(
        csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t")
    )
    sick, well = condition.encode(SICK), condition.encode(Condition())
    assert bytes(got.status) == sick
    assert [bytes(entry.status) for entry in listed.entries] == [sick, well]
    assert bytes(stats) == sick
    assert listed.next_token == "next"


@pytest.mark.parametrize("confirmed", [True, False])
async def test_validation_echoes_what_it_confirms(door, confirmed):
    """Confirmed repeats what was asked. Refused is the absence of `confirmed`, with the reason."""
    door.workflows.answers["provisioning.validate"] = Validation(confirmed, "no such mode")
    answer = await door.controller.validate_volume_capabilities(
        csi.ValidateVolumeCapabilitiesRequest(
            volume_id="v",
            volume_capabilities=[capability()],
            volume_context={"a": "b"},
            parameters={"c": "d"},
        )
    )
    if confirmed:
        assert answer.confirmed.volume_capabilities == [capability()]
        assert (answer.confirmed.volume_context, answer.confirmed.parameters) == ({"a": "b"}, {"c": "d"})
        assert answer.message == ""
    else:
        assert answer.confirmed is None
        assert answer.message == "no such mode"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Capacity(10, 7, 3), (10, 7, 3)),
        (Capacity(10, 7), (10, 7, None)),
        (Capacity(0, 0), (0, 0, None)),
    ],
    ids=["all", "no-minimum", "full"],
)
async def test_capacity_tells_zero_from_unknown(door, found, expected):
    """A full pool has a largest volume of zero, which is set; a minimum that there is not is unset."""
    door.workflows.answers["provisioning.capacity"] = found
    answer = await door.controller.get_capacity(csi.GetCapacityRequest())
    assert (answer.available_capacity, answer.maximum_volume_size, answer.minimum_volume_size) == expected


async def test_snapshots_are_told_in_full(door):
    """Create, get and list give the same snapshot, with the stored moment of the cut."""
    snapshot = Snapshot(SNAPSHOT, "snap-1", VOLUME, 5 << 30, 1_700_000_000.25, ready=False)
    door.workflows.answers |= {
        "snapshots.create": snapshot,
        "snapshots.get": snapshot,
        "snapshots.list": SnapshotPage((snapshot,), "next"),
    }
    created = await door.controller.create_snapshot(
        csi.CreateSnapshotRequest(name="snap-1", source_volume_id="v")
    )
    got = await door.controller.get_snapshot(csi.GetSnapshotRequest(snapshot_id="s"))
    listed = await door.controller.list_snapshots(csi.ListSnapshotsRequest())
    for found in (created.snapshot, got.snapshot, listed.entries[0].snapshot):
        assert (found.snapshot_id, found.source_volume_id) == (str(SNAPSHOT), str(VOLUME))
        assert (found.size_bytes, found.ready_to_use) == (5 << 30, False)
        assert found.creation_time == datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
    assert listed.next_token == "next"


async def test_unknown_usage_is_left_out(door):
    """Of a direct volume without a guest the size is told and nothing else."""
    door.workflows.answers["usage.stats"] = Stats(
        (Usage(Unit.BYTES, 100), Usage(Unit.INODES, 10, available=9, used=1)), Condition()
    )
    answer = await door.node.node_get_volume_stats(
        csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t")
    )
    unknown, known = answer.usage
    assert (unknown.unit, unknown.total) == (csi.VolumeUsageUnit.BYTES, 100)
    assert (unknown.available, unknown.used) == (0, 0)
    assert (known.unit, known.total, known.available, known.used) == (csi.VolumeUsageUnit.INODES, 10, 9, 1)


@pytest.mark.parametrize("topology", [HERE, Topology()], ids=["local", "network"])
async def test_node_info_names_node_and_place(door, topology):
    """A node without topology sends none; an empty one would be a constraint nobody meets."""
    door.workflows.answers["node.info"] = NodeInfo("worker-1", topology, 16)
    answer = await door.node.node_get_info(csi.NodeGetInfoRequest())
    assert (answer.node_id, answer.max_volumes_per_node) == ("worker-1", 16)
    segments = answer.accessible_topology and answer.accessible_topology.segments
    assert segments == (topology.segments or None)


async def test_node_calls_reach_their_workflows(door):
    """Each call of the Node service asks its own workflow, once, with its own fields."""
    door.workflows.answers["expansion.expand"] = 7
    given = {"volume_id": "v", "staging_target_path": "/s"}
    await door.node.node_stage_volume(csi.NodeStageVolumeRequest(**given, volume_capability=capability()))
    await door.node.node_publish_volume(
        csi.NodePublishVolumeRequest(**given, target_path="/t", volume_capability=capability())
    )
    grown = await door.node.node_expand_volume(csi.NodeExpandVolumeRequest(volume_id="v", volume_path="/t"))
    await door.node.node_unpublish_volume(csi.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t"))
    await door.node.node_unstage_volume(csi.NodeUnstageVolumeRequest(**given))
    assert grown.capacity_bytes == 7
    stage, publish, expand, unpublish, unstage = door.workflows.calls
    assert (stage[0], stage[1][0].staging_path) == ("staging.stage", "/s")
    assert (publish[0], publish[1][0].target_path) == ("publishing.publish", "/t")
    assert (expand[0], expand[1][0].size) == ("expansion.expand", SizeRange())
    assert unpublish == ("unpublishing.unpublish", ("v", "/t"))
    assert unstage == ("staging.unstage", ("v", "/s"))


async def test_refused_request_asks_no_workflow(door):
    """Nothing is looked at or changed for a request that is refused at the door."""
    with pytest.raises(GRPCError) as caught:
        await door.node.node_stage_volume(csi.NodeStageVolumeRequest(volume_id="v"))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert caught.value.message == "staging_target_path: is required and was empty"
    assert door.workflows.calls == []


async def test_health_lists_what_is_wrong_and_nothing_else():
    """In the form of CSI 1.13, a healthy volume has no entry, and is not listed at all."""
    workflows = ScriptedWorkflows()
    workflows.answers |= {
        "provisioning.get": view(),
        "provisioning.list": VolumePage((view(), view(health=Condition())), "next"),
    }
    async with open_door(workflows, newer=True) as door:
        got = await door.controller.controller_get_volume_health(
            csi.ControllerGetVolumeHealthRequest(volume_id="v")
        )
        listed = await door.controller.controller_list_volume_health(csi.ControllerListVolumeHealthRequest())
        workflows.answers["provisioning.get"] = view(health=Condition())
        well = await door.controller.controller_get_volume_health(
            csi.ControllerGetVolumeHealthRequest(volume_id="v")
        )
    assert [entry.message for entry in got.volume_health.health_statuses] == [SICK.message]
    assert [each.volume_id for each in listed.entries] == [str(VOLUME)]
    assert listed.next_token == "next"
    assert (well.volume_health.volume_id, well.volume_health.health_statuses) == ("v", [])


async def test_node_health_needs_no_path():
    """A volume that never got to its path on this node still has its health told."""
    workflows = ScriptedWorkflows()
    workflows.answers |= {
        "usage.stats": NotFound("not staged or published there"),
        "provisioning.get": view(),
    }
    async with open_door(workflows, newer=True) as door:
        for path in ("", "/t"):
            answer = await door.node.node_get_volume_health(
                csi.NodeGetVolumeHealthRequest(volume_id="v", volume_publish_path=path)
            )
            assert [each.message for each in answer.volume_health.health_statuses] == [SICK.message]


async def test_network_controller_fences_and_grows():
    """A network release publishes to a node, takes it back from one or all, and leaves the node its part."""
    asked = []

    class Network:
        async def publish(self, request):
            asked.append(request)
            return {"lun": "1"}

        async def unpublish(self, volume_id, node_id):
            asked.append((volume_id, node_id))

        async def expand(self, request):
            asked.append(request)
            return 7

    async with open_door(network=Network()) as door:
        published = await door.controller.controller_publish_volume(
            csi.ControllerPublishVolumeRequest(
                volume_id="v", node_id="n", volume_capability=capability(), readonly=True
            )
        )
        await door.controller.controller_unpublish_volume(csi.ControllerUnpublishVolumeRequest(volume_id="v"))
        grown = await door.controller.controller_expand_volume(
            csi.ControllerExpandVolumeRequest(
                volume_id="v", capacity_range=csi.CapacityRange(required_bytes=7)
            )
        )
    assert published.publish_context == {"lun": "1"}
    assert (grown.capacity_bytes, grown.node_expansion_required) == (7, True)
    publish, unpublish, expand = asked
    assert (publish.node_id, publish.read_only) == ("n", True)
    assert unpublish == ("v", "")
    assert expand.size == SizeRange(7)
