"""From protobuf to requests: what is refused, by which field, and what comes through unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi._gen.csi import v1 as csi
from katacsi.csi import parse
from katacsi.csi.parse.controller import MAX_PAGE
from katacsi.errors import InvalidRequest, Precondition
from katacsi.model import AccessMode, AccessType, Capability, SizeRange, Topology
from katacsi.volumes.requests import (
    CreateVolume,
    Expand,
    GetCapacity,
    GetStats,
    ListSnapshots,
    Publish,
    SourceKind,
    SourceRef,
    Stage,
    ValidateCapabilities,
)

Mode = csi.VolumeCapabilityAccessModeMode


def capability(mode=Mode.SINGLE_NODE_WRITER, **access_type):
    access_type = access_type or {"mount": csi.VolumeCapabilityMountVolume()}
    return csi.VolumeCapability(access_mode=csi.VolumeCapabilityAccessMode(mode=mode), **access_type)


MOUNT = Capability(AccessType.MOUNT, AccessMode.SINGLE_NODE_WRITER)


def create(**changes):
    return csi.CreateVolumeRequest(**{"name": "pvc-1", "volume_capabilities": [capability()]} | changes)


def stage(**changes):
    given = {"volume_id": "v", "staging_target_path": "/s", "volume_capability": capability()}
    return csi.NodeStageVolumeRequest(**given | changes)


def publish(**changes):
    given = {
        "volume_id": "v",
        "staging_target_path": "/s",
        "target_path": "/t",
        "volume_capability": capability(),
    }
    return csi.NodePublishVolumeRequest(**given | changes)


def validate(**changes):
    given = {"volume_id": "v", "volume_capabilities": [capability()]}
    return csi.ValidateVolumeCapabilitiesRequest(**given | changes)


def sizes(required, limit):
    return csi.CapacityRange(required_bytes=required, limit_bytes=limit)


def snapshot_source(identifier):
    return csi.VolumeContentSource(snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id=identifier))


def volume_source(identifier):
    return csi.VolumeContentSource(volume=csi.VolumeContentSourceVolumeSource(volume_id=identifier))


BOTH = csi.VolumeContentSource(
    snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id="s"),
    volume=csi.VolumeContentSourceVolumeSource(volume_id="v"),
)

REFUSED = [
    ("no name", parse.create_volume, create(name=""), "name"),
    ("129 bytes", parse.create_volume, create(name="x" * 129), "name"),
    ("129 bytes of UTF-8", parse.create_volume, create(name="ü" * 64 + "x"), "name"),
    ("control character", parse.create_volume, create(name="a\x07b"), "name"),
    ("no capability", parse.create_volume, create(volume_capabilities=[]), "volume_capabilities"),
    (
        "capability without access type",
        parse.create_volume,
        create(volume_capabilities=[capability(), replace(capability(), mount=None)]),
        "volume_capabilities[1]",
    ),
    (
        "both access types",
        parse.create_volume,
        create(
            volume_capabilities=[
                capability(block=csi.VolumeCapabilityBlockVolume(), mount=csi.VolumeCapabilityMountVolume())
            ]
        ),
        "volume_capabilities[0]",
    ),
    (
        "no access mode",
        parse.create_volume,
        create(volume_capabilities=[replace(capability(), access_mode=None)]),
        "volume_capabilities[0].access_mode",
    ),
    (
        "access mode UNKNOWN",
        parse.create_volume,
        create(volume_capabilities=[capability(Mode(0))]),
        "volume_capabilities[0].access_mode.mode",
    ),
    (
        "access mode of a later CSI",
        parse.create_volume,
        create(volume_capabilities=[capability(Mode(99))]),
        "volume_capabilities[0].access_mode.mode",
    ),
    ("negative", parse.create_volume, create(capacity_range=sizes(-1, 0)), "capacity_range.required_bytes"),
    (
        "negative limit",
        parse.create_volume,
        create(capacity_range=sizes(0, -1)),
        "capacity_range.limit_bytes",
    ),
    ("limit below required", parse.create_volume, create(capacity_range=sizes(5, 4)), "capacity_range"),
    (
        "empty source",
        parse.create_volume,
        create(volume_content_source=csi.VolumeContentSource()),
        "volume_content_source",
    ),
    ("two sources", parse.create_volume, create(volume_content_source=BOTH), "volume_content_source"),
    (
        "snapshot without id",
        parse.create_volume,
        create(volume_content_source=snapshot_source("")),
        "volume_content_source.snapshot.snapshot_id",
    ),
    (
        "volume without id",
        parse.create_volume,
        create(volume_content_source=volume_source("")),
        "volume_content_source.volume.volume_id",
    ),
    ("4 KiB of parameters", parse.create_volume, create(parameters={"k": "v" * 4096}), "parameters"),
    ("mutable", parse.create_volume, create(mutable_parameters={"iops": "1"}), "mutable_parameters"),
    ("no id", parse.volume_id, csi.DeleteVolumeRequest(), "volume_id"),
    ("no id", parse.volume_id, csi.ControllerGetVolumeRequest(), "volume_id"),
    ("no id", parse.validate, validate(volume_id=""), "volume_id"),
    ("no capability", parse.validate, validate(volume_capabilities=[]), "volume_capabilities"),
    ("mutable", parse.validate, validate(mutable_parameters={"iops": "1"}), "mutable_parameters"),
    ("negative page", parse.page, csi.ListVolumesRequest(max_entries=-1), "max_entries"),
    ("negative page", parse.list_snapshots, csi.ListSnapshotsRequest(max_entries=-1), "max_entries"),
    ("no source", parse.create_snapshot, csi.CreateSnapshotRequest(name="s"), "source_volume_id"),
    ("no name", parse.create_snapshot, csi.CreateSnapshotRequest(source_volume_id="v"), "name"),
    ("no id", parse.snapshot_id, csi.DeleteSnapshotRequest(), "snapshot_id"),
    ("no id", parse.stage, stage(volume_id=""), "volume_id"),
    ("no path", parse.stage, stage(staging_target_path=""), "staging_target_path"),
    ("NUL in path", parse.stage, stage(staging_target_path="/s\0"), "staging_target_path"),
    ("no capability", parse.stage, stage(volume_capability=None), "volume_capability"),
    ("no id", parse.unstage, csi.NodeUnstageVolumeRequest(staging_target_path="/s"), "volume_id"),
    ("no path", parse.unstage, csi.NodeUnstageVolumeRequest(volume_id="v"), "staging_target_path"),
    ("no id", parse.publish, publish(volume_id=""), "volume_id"),
    ("no path", parse.publish, publish(target_path=""), "target_path"),
    ("no capability", parse.publish, publish(volume_capability=None), "volume_capability"),
    ("no id", parse.unpublish, csi.NodeUnpublishVolumeRequest(target_path="/t"), "volume_id"),
    ("no path", parse.unpublish, csi.NodeUnpublishVolumeRequest(volume_id="v"), "target_path"),
    ("no id", parse.get_stats, csi.NodeGetVolumeStatsRequest(volume_path="/t"), "volume_id"),
    ("no path", parse.get_stats, csi.NodeGetVolumeStatsRequest(volume_id="v"), "volume_path"),
    ("no id", parse.expand, csi.NodeExpandVolumeRequest(volume_path="/t"), "volume_id"),
    ("no path", parse.expand, csi.NodeExpandVolumeRequest(volume_id="v"), "volume_path"),
    ("no node", parse.controller_publish, csi.ControllerPublishVolumeRequest(volume_id="v"), "node_id"),
    ("no size", parse.controller_expand, csi.ControllerExpandVolumeRequest(volume_id="v"), "capacity_range"),
]


@pytest.mark.parametrize(
    ("read", "message", "field"),
    [row[1:] for row in REFUSED],
    ids=[f"{read.__name__}-{fact}" for fact, read, *_ in REFUSED],
)
def test_refused_by_the_name_of_the_field(read, message, field):
    """What is missing or cannot be is an InvalidRequest that names exactly the offending field."""
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    assert caught.value.field == field


def test_publish_without_staging_path_is_a_precondition():
    """CSI gives this one missing field another code, FAILED_PRECONDITION, and after the required ones."""
    with pytest.raises(Precondition, match="staging_target_path"):
        parse.publish(publish(staging_target_path=""))
    with pytest.raises(InvalidRequest, match="target_path"):
        parse.publish(publish(staging_target_path="", target_path=""))


READ = [
    (parse.create_volume, create(), CreateVolume("pvc-1", SizeRange(), (MOUNT,))),
    (
        parse.create_volume,
        create(
            capacity_range=sizes(5, 5),
            parameters={"katacsi.io/pool": "fast"},
            volume_content_source=snapshot_source("s"),
            accessibility_requirements=csi.TopologyRequirement(
                requisite=[csi.Topology(segments={"k": "a"}), csi.Topology(segments={"k": "b"})],
                preferred=[csi.Topology(segments={"k": "b"})],
            ),
        ),
        CreateVolume(
            "pvc-1",
            SizeRange(5, 5),
            (MOUNT,),
            {"katacsi.io/pool": "fast"},
            SourceRef(SourceKind.SNAPSHOT, "s"),
            (Topology({"k": "a"}), Topology({"k": "b"})),
        ),
    ),
    (
        parse.create_volume,
        create(name="ü" * 64, volume_content_source=volume_source("v")),
        CreateVolume("ü" * 64, SizeRange(), (MOUNT,), {}, SourceRef(SourceKind.VOLUME, "v")),
    ),
    (
        parse.validate,
        validate(volume_context={"a": "b"}, parameters={"c": "d"}),
        ValidateCapabilities("v", (MOUNT,), {"a": "b"}, {"c": "d"}),
    ),
    (parse.page, csi.ListVolumesRequest(max_entries=3, starting_token="t"), ("t", 3)),
    (parse.page, csi.ListVolumesRequest(), ("", MAX_PAGE)),
    (parse.page, csi.ListVolumesRequest(max_entries=10**6), ("", MAX_PAGE)),
    (parse.get_capacity, csi.GetCapacityRequest(), GetCapacity()),
    (
        parse.get_capacity,
        csi.GetCapacityRequest(
            volume_capabilities=[capability()],
            parameters={"a": "b"},
            accessible_topology=csi.Topology(segments={"k": "a"}),
        ),
        GetCapacity((MOUNT,), {"a": "b"}, Topology({"k": "a"})),
    ),
    (
        parse.create_snapshot,
        csi.CreateSnapshotRequest(name="s", source_volume_id="v", parameters={"a": "b"}),
        ("s", "v", {"a": "b"}),
    ),
    (
        parse.list_snapshots,
        csi.ListSnapshotsRequest(max_entries=2, starting_token="t", source_volume_id="v", snapshot_id="s"),
        ListSnapshots("t", 2, "v", "s"),
    ),
    (
        parse.stage,
        stage(volume_context={"a": "b"}, publish_context={"c": "d"}, secrets={"e": "f"}),
        Stage("v", "/s", MOUNT, {"a": "b"}, {"c": "d"}, {"e": "f"}),
    ),
    (parse.publish, publish(readonly=True), Publish("v", "/s", "/t", MOUNT, read_only=True)),
    (
        parse.get_stats,
        csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t", staging_target_path="/s"),
        GetStats("v", "/t", "/s"),
    ),
    (
        parse.expand,
        csi.NodeExpandVolumeRequest(volume_id="v", volume_path="/t", capacity_range=sizes(9, 0)),
        Expand("v", "/t", SizeRange(9, 0)),
    ),
    (
        parse.expand,
        csi.NodeExpandVolumeRequest(
            volume_id="v",
            volume_path="/t",
            staging_target_path="/s",
            volume_capability=capability(),
            secrets={"e": "f"},
        ),
        Expand("v", "/t", SizeRange(), "/s", MOUNT, {"e": "f"}),
    ),
]


@pytest.mark.parametrize(
    ("read", "message", "request_"), READ, ids=[f"{row[0].__name__}-{n}" for n, row in enumerate(READ)]
)
def test_request_says_what_the_message_said(read, message, request_):
    """A message that went over the wire arrives as the same facts, unset fields as their defaults."""
    assert read(type(message).parse(bytes(message))) == request_


@pytest.mark.parametrize("mode", list(AccessMode), ids=lambda mode: mode.value)
def test_every_access_mode_keeps_its_name(mode):
    """No access mode is mistaken for another."""
    assert parse.capability("c", capability(Mode[mode.value])).access_mode is mode


def test_mount_capability_is_complete():
    """Filesystem, flags in their order, and the group reach the workflow."""
    mount = csi.VolumeCapabilityMountVolume(
        fs_type="xfs", mount_flags=["noatime", "discard"], volume_mount_group="1000"
    )
    read = parse.capability("c", capability(mount=mount))
    assert (read.fs_type, read.mount_flags, read.mount_group) == ("xfs", ("noatime", "discard"), "1000")


@pytest.mark.parametrize(
    ("read", "empty", "wire", "field"),
    [
        (parse.volume_id, csi.DeleteVolumeRequest, b"\x08\x05", "volume_id"),  # 1: varint 5
        (parse.page, csi.ListVolumesRequest, b"\x0a\x01x", "max_entries"),  # 1: "x"
        (parse.publish, csi.NodePublishVolumeRequest, bytes(publish()) + b"\x32\x01x", "readonly"),
        (parse.expand, csi.NodeExpandVolumeRequest, b"\x0a\x01v\x12\x02/t\x18\x05", "capacity_range"),
        (parse.stage, csi.NodeStageVolumeRequest, b"\x0a\x01v\x1a\x02/s\x20\x05", "volume_capability"),
        (
            parse.create_volume,
            csi.CreateVolumeRequest,
            b"\x0a\x01n\x18\x05",
            "volume_capabilities[0]",
        ),
    ],
    ids=["string", "integer", "boolean", "message", "required-message", "list"],
)
def test_wrong_type_on_the_wire_is_refused(read, empty, wire, field):
    """A field that came as another wire type, which betterproto2 lets through, is refused at the door."""
    with pytest.raises(InvalidRequest) as caught:
        read(empty.parse(wire))
    assert caught.value.field == field


def test_map_with_numbers_is_refused():
    """A map entry whose value is a number on the wire does not become a parameter."""
    message = create()
    message.parameters = {"a": 5}
    with pytest.raises(InvalidRequest, match="parameters"):
        parse.create_volume(message)
