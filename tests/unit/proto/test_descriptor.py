"""proto/csi.proto says on the wire what the official CSI release says."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

pytestmark = pytest.mark.unit

# What may differ without changing a name or a byte on the wire: where the file lies, and what Go calls it.
OF_THE_FILE_ONLY = ("name", "dependency", "options")


@pytest.mark.timeout(900)  # the first run compiles the Go module
def test_transcription_states_the_official_wire_facts(our_set, official_set):
    """Every name, number, type, label, oneof, option, reserved range and method is the official one."""
    assert facts_of(our_set) == facts_of(official_set)


def test_transcription_names_its_release(root, official_version):
    """The header tells the release that the test compares with."""
    assert f"release {official_version}:" in (root / "proto" / "csi.proto").read_text().split("syntax")[0]


def test_the_facts_are_all_there(our_set):
    """The comparison sees every kind of fact; a walk that lost one would find anything equal."""
    facts = facts_of(our_set)
    capability = "message_type.ControllerServiceCapability.nested_type.RPC.enum_type.Type"
    assert facts["message_type.Volume.field.capacity_bytes.number"] == 1
    assert facts["message_type.VolumeCapability.field.mount.oneof_index"] == "access_type"
    assert facts["message_type.NodeStageVolumeRequest.field.secrets.options.csi.v1.csi_secret"] is True
    assert facts[f"{capability}.value.GET_VOLUME.options.csi.v1.alpha_enum_value"] is True
    assert facts[f"{capability}.reserved_range"] == [(11, 11)]
    assert facts["message_type.NodeGetVolumeStatsResponse.reserved_range"] == [(2, 3)]
    assert facts["service.SnapshotMetadata.options.csi.v1.alpha_service"] is True
    assert facts["service.SnapshotMetadata.method.GetMetadataDelta.server_streaming"] is True
    assert facts["extension.csi_secret.number"] == 1059


def change_number(file):
    message(file, "Volume").field[0].number = 9


def change_type(file):
    message(file, "CapacityRange").field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_UINT64


def change_label(file):
    message(file, "CapacityRange").field[0].label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def change_message_type(file):
    message(file, "CreateVolumeResponse").field[0].type_name = ".csi.v1.Snapshot"


def leave_a_oneof(file):
    message(file, "VolumeContentSource").field[0].ClearField("oneof_index")


def rename_a_oneof(file):
    message(file, "VolumeContentSource").oneof_decl[0].name = "kind"


def lose_a_secret(file):
    next(f for f in message(file, "CreateVolumeRequest").field if f.name == "secrets").ClearField("options")


def lose_an_alpha_message(file):
    message(file, "VolumeHealth").ClearField("options")


def lose_a_field(file):
    del message(file, "Topology").field[0]


def lose_a_reserved_range(file):
    del message(file, "NodeGetVolumeStatsResponse").reserved_range[0]


def change_an_enum_value(file):
    file.enum_type[0].value[1].number = 77


def lose_a_stream(file):
    next(s for s in file.service if s.name == "SnapshotMetadata").method[0].server_streaming = False


def lose_a_method(file):
    del file.service[0].method[-1]


@pytest.mark.parametrize(
    "change",
    [
        change_number,
        change_type,
        change_label,
        change_message_type,
        leave_a_oneof,
        rename_a_oneof,
        lose_a_secret,
        lose_an_alpha_message,
        lose_a_field,
        lose_a_reserved_range,
        change_an_enum_value,
        lose_a_stream,
        lose_a_method,
    ],
    ids=lambda change: change.__name__,
)
def test_a_slip_in_the_transcription_is_seen(our_set, change):
    """One wrong fact of any kind makes the comparison fail."""
    slipped = descriptor_pb2.FileDescriptorSet()
    slipped.CopyFrom(our_set)
    change(slipped.file[-1])
    assert facts_of(slipped) != facts_of(our_set)


def test_order_is_no_fact(our_set):
    """Messages and fields may stand in another order than in the official file."""
    shuffled = descriptor_pb2.FileDescriptorSet()
    shuffled.CopyFrom(our_set)
    file = shuffled.file[-1]
    file.message_type.reverse()
    message(file, "CreateVolumeRequest").field.reverse()
    assert facts_of(shuffled) == facts_of(our_set)


def message(file, name):
    return next(message for message in file.message_type if message.name == name)


def facts_of(descriptor_set):
    """All that the last file of a set states, flat: a dotted path of names to a value."""
    *imports, csi = descriptor_set.file
    # Options are extensions, and only a pool that holds their definition can read them. A broken file (as the
    # slips above make) would not load, so the definitions alone are taken over.
    pool = descriptor_pool.DescriptorPool()
    for file in imports:
        pool.AddSerializedFile(file.SerializeToString())
    options = descriptor_pb2.FileDescriptorProto(
        name=csi.name, package=csi.package, syntax=csi.syntax, dependency=["google/protobuf/descriptor.proto"]
    )
    options.extension.extend(csi.extension)
    pool.AddSerializedFile(options.SerializeToString())
    descriptor_class = message_factory.GetMessageClassesForFiles(
        ["google/protobuf/descriptor.proto", csi.name], pool
    )
    readable = descriptor_class["google.protobuf.FileDescriptorProto"].FromString(csi.SerializeToString())
    for name in OF_THE_FILE_ONLY:
        readable.ClearField(name)
    facts = {}
    collect(readable, (), facts)
    return facts


def collect(part, path, facts, enclosing=None):
    """Add what a part of a descriptor states; parts go by their names, so that order does not matter."""
    for field, value in part.ListFields():
        here = (*path, field.full_name if field.is_extension else field.name)
        if field.name == "reserved_range":
            facts[".".join(here)] = sorted((span.start, span.end) for span in value)
        elif field.name == "reserved_name":
            facts[".".join(here)] = sorted(value)
        elif field.name == "oneof_index":
            facts[".".join(here)] = enclosing.oneof_decl[value].name
        elif field.message_type is None:
            facts[".".join(here)] = value
        elif field.is_repeated:
            for child in value:
                facts[".".join((*here, child.name))] = "declared"
                collect(child, (*here, child.name), facts, enclosing=part)
        else:
            collect(value, here, facts, enclosing=part)
