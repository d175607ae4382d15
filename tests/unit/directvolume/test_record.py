"""Kata's record as bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.directvolume.record import DirectVolumeRecord, clean_options
from katacsi.errors import CorruptRecord, InvalidRequest

PATH = "/records/entry/mountInfo.json"

# Printed by Go's encoding/json from the struct that Kata declares.
GOLDEN = {
    "bare": (
        DirectVolumeRecord("/dev/x", "ext4"),
        r'{"volume-type":"directvol","device":"/dev/x","fstype":"ext4"}',
    ),
    "group": (
        DirectVolumeRecord("/dev/x", "ext4", ("noatime",), 1000, "OnRootMismatch"),
        (
            r'{"volume-type":"directvol","device":"/dev/x","fstype":"ext4",'
            r'"metadata":{"fsGroup":"1000","fsGroupChangePolicy":"OnRootMismatch"},"options":["noatime"]}'
        ),
    ),
    "escapes": (
        DirectVolumeRecord('/dev/a&b<c>\u2028\u2029\b\f\n\t\x01\x7f"\\é/😀', "ext4", ("x", "y=ü&")),
        (
            r'{"volume-type":"directvol","device":"/dev/a\u0026b\u003cc\u003e\u2028\u2029\b\f\n\t\u0001'
            "\x7f"
            r'\"\\é/😀","fstype":"ext4","options":["x","y=ü\u0026"]}'
        ),
    ),
}


@pytest.mark.gate("record-json-for-both-runtimes")
@pytest.mark.parametrize("name", GOLDEN)
def test_bytes_are_those_of_katas_go_code(name):
    """Key order, compactness, omitted empties and escapes are encoding/json's; no newline ends it."""
    record, text = GOLDEN[name]
    assert record.to_json() == text.encode()
    assert DirectVolumeRecord.from_json(text.encode(), PATH) == record


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    device=TEXTS,
    fs_type=TEXTS,
    options=st.lists(TEXTS | st.just("ro")).map(tuple),
    group=st.none() | st.integers(0, (1 << 32) - 1),
    policy=st.sampled_from(["", "OnRootMismatch", "Always", "None"]),
)
def test_what_is_written_is_what_is_read(device, fs_type, options, group, policy):
    """Any record comes back equal, and a plain JSON reader sees the same strings."""
    record = DirectVolumeRecord(device, fs_type, options, group, policy)
    data = record.to_json()
    assert DirectVolumeRecord.from_json(data, PATH) == record
    plain = json.loads(data)
    assert (plain["device"], plain["fstype"], tuple(plain.get("options", ()))) == (device, fs_type, options)
    assert not set(data.decode()) & set("<>&\u2028\u2029")


GOOD = {"volume-type": "directvol", "device": "/dev/x", "fstype": "ext4"}


def without(key):
    return json.dumps({name: value for name, value in GOOD.items() if name != key})


def having(**changes):
    return json.dumps(GOOD | changes)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        (having() + "x", "is not JSON"),
        (having() + "{}", "is not JSON"),
        ("null", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('["directvol","/dev/x","ext4"]', "is not a JSON object"),
        ("\ufeff" + having(), "is not JSON"),
        (having(other=float("nan")), "is not JSON"),
        (having(device="\ud800"), "is not UTF-8"),
        ("[" * 100_000, "is not JSON"),
        (without("volume-type"), 'has no "volume-type"'),
        (without("device"), 'has no "device"'),
        (without("fstype"), 'has no "fstype"'),
        (having(device=None), '"device" that is no string'),
        (having(fstype=4), '"fstype" that is no string'),
        (without("device").replace("{", '{"Device":"/dev/x",', 1), 'has "Device"'),
        (having().replace("{", '{"device":"/dev/y",', 1), 'has "device" twice'),
        (having(metadata=None), '"metadata" that is no object of strings'),
        (having(metadata="{}"), '"metadata" that is no object of strings'),
        (having(metadata=[]), '"metadata" that is no object of strings'),
        (having(metadata={"fsGroup": 1000}), '"metadata" that is no object of strings'),
        (having(metadata={"a": None}), '"metadata" that is no object of strings'),
        (having(metadata={"fsGroup": "0"}), "no group id"),
        (having(metadata={"fsGroup": "-1"}), "no group id"),
        (having(metadata={"fsGroup": "4294967296"}), "no group id"),
        (having(metadata={"fsGroup": "\u0661"}), "no group id"),
        (having(options=None), '"options" that are no list of strings'),
        (having(options="ro"), '"options" that are no list of strings'),
        (having(options={}), '"options" that are no list of strings'),
        (having(options=["ro", 1]), '"options" that are no list of strings'),
    ],
)
def test_what_a_runtime_would_refuse_is_corrupt(text, fact):
    """Each is refused with the file's path and what is wrong with it."""
    with pytest.raises(CorruptRecord, match=fact) as refusal:
        DirectVolumeRecord.from_json(text.encode("utf-8", "surrogatepass"), PATH)
    assert refusal.value.message.startswith(PATH)


def test_bytes_that_are_no_text_are_corrupt():
    """Half a UTF-8 sequence is refused."""
    with pytest.raises(CorruptRecord, match="is not UTF-8"):
        DirectVolumeRecord.from_json(having().encode().replace(b"/dev/x", b"/dev/\xc3"), PATH)


def test_what_kata_accepts_of_others_is_read():
    """Unknown keys, twice or of any kind, other types, other metadata and unknown policies are no fault."""
    text = (
        '{"x":null,"x":[1],"volume-type":"blk","device":"d","fstype":"ext4",'
        '"metadata":{"encryptionKey":"ephemeral","fsGroup":"1","fsGroup":"7","fsGroupChangePolicy":"sometimes"}}'
    )
    record = DirectVolumeRecord.from_json(text.encode(), PATH)
    assert record == DirectVolumeRecord("d", "ext4", (), 7, "Always", volume_type="blk")


@pytest.mark.gate("no-user-key-reaches-metadata")
@given(flags=st.lists(st.text(max_size=20)), read_only=st.booleans(), group=st.integers(0, (1 << 32) - 1))
def test_no_user_key_reaches_metadata(flags, read_only, group):
    """Whatever a user writes into mount options, metadata holds the group and its policy or is not there."""
    record = DirectVolumeRecord("/dev/x", "ext4", clean_options(flags, read_only), group, "OnRootMismatch")
    written = json.loads(record.to_json().decode("utf-8", "surrogatepass")) if _utf8(flags) else {}
    assert set(written.get("metadata", {})) <= {"fsGroup", "fsGroupChangePolicy"}
    assert set(written) <= {"volume-type", "device", "fstype", "metadata", "options"}


def _utf8(flags):
    try:
        "".join(flags).encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("group", [None, 0])
def test_no_group_no_metadata(group):
    """Kata fails the container of a group 0; none is written, and no policy without a group."""
    assert DirectVolumeRecord("/dev/x", "ext4", (), group, "Always").metadata == {}


def test_read_only_volumes_have_no_group():
    """The agent's chown would fail the container on a read-only filesystem."""
    assert DirectVolumeRecord("/dev/x", "ext4", ("ro",), 1000).metadata == {}


def test_policy_none_keeps_the_group_from_kata():
    """Kata would take "None" for Always; so the group itself stays out."""
    assert DirectVolumeRecord("/dev/x", "ext4", (), 1000, "None").metadata == {}


@pytest.mark.parametrize("group", [-1, 1 << 32])
def test_groups_that_do_not_exist_are_refused(group):
    """Kata would fail the container; the request is refused instead."""
    with pytest.raises(InvalidRequest, match=str(group)):
        DirectVolumeRecord("/dev/x", "ext4", (), group)


def test_policies_that_do_not_exist_are_refused():
    """Kata would take a misspelt policy for Always, the expensive one."""
    with pytest.raises(InvalidRequest, match="onrootmismatch"):
        DirectVolumeRecord("/dev/x", "ext4", (), 1, "onrootmismatch")


@pytest.mark.parametrize(
    ("flags", "read_only", "cleaned"),
    [
        ([], False, ()),
        ([], True, ("ro",)),
        (["noatime", "ro"], False, ("ro", "noatime")),
        (["rw", "noatime"], True, ("ro", "noatime")),
        (["bind", "rbind", "remount", "loop", "loop=/dev/loop1", "move", "rslave"], False, ()),
        (["rw", "defaults", "auto", "noauto", "user", "nouser", "users", "_netdev", "nofail"], False, ()),
        (["x-systemd.automount", "X-mount.mkdir", "comment=mine"], False, ()),
        (["noatime,ro,bind", " discard "], False, ("ro", "noatime", "discard")),
        (['context="a:b:c:s0:c1,c2",noatime'], False, ("noatime",)),
        (["data=ordered", "users_xattr", "bindings"], False, ("data=ordered", "users_xattr", "bindings")),
        (["", ",", '"'], False, ('"',)),
    ],
)
def test_options_are_those_a_guest_understands(flags, read_only, cleaned):
    """Host words go, `ro` comes first, order and meaning of the rest stay."""
    assert clean_options(flags, read_only) == cleaned


@pytest.mark.gate("record-json-for-both-runtimes")
@given(st.lists(st.sampled_from(["bind", "rbind", "rw", "loop", "noatime", "ro,bind", "nofail", "defaults"])))
def test_bind_never_reaches_a_guest(flags):
    """The Go runtime hands options over unfiltered, and `bind` of a device on a folder fails the pod."""
    assert not set(clean_options(flags, False)) & {"bind", "rbind", "loop", "rw", "nofail", "defaults"}
