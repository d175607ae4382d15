"""The generated messages speak the same bytes as official protobuf, which is the oracle here."""

import datetime as dt
import functools

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import katacsi._gen.csi.v1 as csi
from katacsi._gen.message_pool import default_message_pool

pytestmark = pytest.mark.unit

EXAMPLES_PER_MESSAGE = 25

TYPE_URL = "type.googleapis.com/csi.v1."
MESSAGES = sorted(
    url.removeprefix(TYPE_URL) for url in default_message_pool.url_to_type if url.startswith(TYPE_URL)
)

# The years 1 to 9999, as protobuf and datetime both have them.
TIMESTAMP_SECONDS = st.integers(-62_135_596_800, 253_402_300_799)
NANOSECONDS_PER_MICROSECOND = 1000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

TEXT = st.text(max_size=12)
SCALARS = {
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}


@pytest.mark.parametrize("name", MESSAGES)
@settings(
    max_examples=EXAMPLES_PER_MESSAGE,
    deadline=None,
    database=None,
    derandomize=True,  # a gate answers the same on every run
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_message_survives_the_round_trip(pool, name, data):
    """Official bytes read as the same values, and written again they are the same official message."""
    descriptor = pool.FindMessageTypeByName(f"csi.v1.{name}")
    official = message_factory.GetMessageClass(descriptor)
    sent = data.draw(any_message(descriptor))
    received = generated_class(name).parse(sent.SerializeToString())
    assert_reads_alike(received, sent)
    assert official.FromString(bytes(received)) == sent


def test_every_message_is_generated_and_no_other(csi_file):
    """The round trip above leaves none out."""
    assert set(MESSAGES) == {
        descriptor.full_name.removeprefix("csi.v1.") for descriptor in messages_of(csi_file)
    }


def test_every_enum_keeps_its_names_and_numbers(csi_file):
    """The compiler may shorten enum names; here a name in Python is the name in the specification."""
    for descriptor in enums_of(csi_file):
        generated = getattr(csi, class_name(descriptor))
        assert {value.name: value.value for value in generated} == {
            value.name: value.number for value in descriptor.values
        }


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume()), b"\x0a\x00"),
        (csi.VolumeCapability(mount=csi.VolumeCapabilityMountVolume()), b"\x12\x00"),
        (
            csi.ValidateVolumeCapabilitiesResponse(
                confirmed=csi.ValidateVolumeCapabilitiesResponseConfirmed()
            ),
            b"\x0a\x00",
        ),
        (csi.ProbeResponse(ready=False), b"\x0a\x00"),
        (csi.ProbeResponse(), b""),
        (csi.Topology(segments={"": ""}), b"\x0a\x04\x0a\x00\x12\x00"),
    ],
    ids=["block", "mount", "confirmed", "ready-false", "ready-unset", "empty-map-entry"],
)
def test_empty_is_not_absent(csi_file, message, wire):
    """A message that is there but empty is sent: so a plugin says yes, and a CO says block or mount."""
    official = message_factory.GetMessageClass(csi_file.message_types_by_name[type(message).__name__])
    # Official protobuf may write a map entry shorter, so its reading counts, not its bytes.
    assert official.FromString(bytes(message)) == official.FromString(wire)
    assert type(message).parse(wire) == message
    assert (bytes(message) == b"") == (wire == b"")


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(seconds=TIMESTAMP_SECONDS, nanoseconds=st.integers(0, 999_999_999))
def test_timestamps_are_cut_to_microseconds(seconds, nanoseconds):
    """The one known loss: datetime holds microseconds, and the rest is cut, never rounded up."""
    returned = through_snapshot(seconds, nanoseconds)
    assert (returned.seconds, returned.nanos) == (
        seconds,
        nanoseconds - nanoseconds % NANOSECONDS_PER_MICROSECOND,
    )


def test_timestamp_is_a_datetime_in_utc():
    """What the generated class gives for creation_time, and what it wants."""
    at = dt.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
    assert csi.Snapshot.parse(bytes(csi.Snapshot(creation_time=at))).creation_time == at
    with pytest.raises(ValueError, match="timezone"):
        bytes(csi.Snapshot(creation_time=at.replace(tzinfo=None)))


def test_fields_and_values_of_other_releases_are_kept():
    """A CO that speaks a newer or older release loses nothing on the way through a generated message."""
    wire = b"\x12\x07\x08\x01\x12\x03bad"  # NodeGetVolumeStatsResponse.volume_condition, up to CSI 1.12
    assert bytes(csi.NodeGetVolumeStatsResponse.parse(wire)) == wire
    wire = b"\x0a\x02\x08\x0b"  # ControllerServiceCapability.RPC VOLUME_CONDITION, up to CSI 1.12
    assert bytes(csi.ControllerServiceCapability.parse(wire)) == wire


def through_snapshot(seconds, nanoseconds):
    """A Timestamp as official protobuf reads it after the generated Snapshot had it."""
    stamp = Timestamp(seconds=seconds, nanos=nanoseconds).SerializeToString()
    field = bytes([4 << 3 | 2, len(stamp)])
    returned = bytes(csi.Snapshot.parse(field + stamp))
    assert returned[:1] == field[:1]
    return Timestamp.FromString(returned[2:])


def assert_reads_alike(ours, official):
    """Every attribute is what official protobuf has; the round trip alone forgives a wrong format."""
    for field in official.DESCRIPTOR.fields:
        ours_has, official_has = getattr(ours, field.name), getattr(official, field.name)
        if is_map(field):
            assert ours_has == dict(official_has)
        elif field.is_repeated:
            for one, other in zip(ours_has, official_has, strict=True):
                assert_value_alike(field, one, other)
        elif field.has_presence and not official.HasField(field.name):
            assert ours_has is None
        else:
            assert_value_alike(field, ours_has, official_has)


def assert_value_alike(field, ours, official):
    kind = field.message_type.full_name if field.message_type else "scalar"
    if kind == "scalar":
        assert ours == official
        assert isinstance(ours, type(official))  # 1 is no True
    elif kind == "google.protobuf.Timestamp":
        microseconds = official.nanos // NANOSECONDS_PER_MICROSECOND
        assert ours == EPOCH + dt.timedelta(seconds=official.seconds, microseconds=microseconds)
    elif kind.startswith("google.protobuf."):
        assert ours == official.value  # a wrapper is the value, or None
    else:
        assert_reads_alike(ours, official)


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def messages_of(parent):
    """Every message of a file, nested ones too, without the entries that maps are made of."""
    of = (
        parent.message_types_by_name.values()
        if hasattr(parent, "message_types_by_name")
        else parent.nested_types
    )
    for descriptor in of:
        if not descriptor.GetOptions().map_entry:
            yield descriptor
            yield from messages_of(descriptor)


def enums_of(file):
    yield from file.enum_types_by_name.values()
    for descriptor in messages_of(file):
        yield from descriptor.enum_types


def generated_class(name):
    return default_message_pool.url_to_type[TYPE_URL + name]


def class_name(descriptor):
    """The name of a generated class: that of the message, and before it those of the messages around it."""
    outer = descriptor.containing_type
    return descriptor.name if outer is None else class_name(outer).replace("RPC", "Rpc") + descriptor.name


@functools.cache
def any_message(descriptor):
    """A strategy for every state of a message: each field unset or set, at most one field of a oneof."""
    if descriptor.full_name == "google.protobuf.Timestamp":
        nanos = st.integers(0, 999_999).map(lambda microseconds: microseconds * NANOSECONDS_PER_MICROSECOND)
        return built(descriptor, {"seconds": TIMESTAMP_SECONDS, "nanos": nanos})
    plain = {field.name: any_value(field) for field in descriptor.fields if field.containing_oneof is None}
    choices = [
        st.one_of(
            st.just({}), *(st.fixed_dictionaries({field.name: any_value(field)}) for field in oneof.fields)
        )
        for oneof in descriptor.oneofs
    ]
    return built(descriptor, plain, choices)


def built(descriptor, optional, choices=()):
    official = message_factory.GetMessageClass(descriptor)
    parts = st.tuples(st.fixed_dictionaries({}, optional=optional), *choices)
    return parts.map(
        lambda parts: official(**{name: value for part in parts for name, value in part.items()})
    )


def any_value(field):
    if is_map(field):
        key, value = (any_single(part) for part in field.message_type.fields)
        return st.dictionaries(key, value, max_size=3)
    return st.lists(any_single(field), max_size=3) if field.is_repeated else any_single(field)


def any_single(field):
    if field.message_type is not None:
        return any_message(field.message_type)
    if field.enum_type is not None:
        known = st.sampled_from([value.number for value in field.enum_type.values])
        return st.one_of(known, SCALARS[FieldDescriptor.TYPE_INT32])
    return SCALARS[field.type]
