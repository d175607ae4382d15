"""Names and ids."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.model import (
    MAX_NAME_BYTES,
    AccessMode,
    MalformedId,
    SizeRange,
    SnapshotId,
    VolumeId,
    is_storage_name,
    storage_name,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)
UNSAFE = [
    "$(reboot)",
    "a;b",
    "`id`",
    "../../etc/passwd",
    "a b",
    "-rf",
    "ü" * 64,
    "A",
    "a/b",
    "",
    "a\nb",
    "'\"",
    "a" * 128,
]


@pytest.mark.gate("volume-id-in-unsafe-characters")
@given(TEXT)
def test_a_storage_name_is_safe(name):
    """Whatever a volume is called, storage sees lower-case letters, digits and dashes, at most 63."""
    kept = storage_name(name)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", kept)
    assert is_storage_name(kept)
    assert storage_name(name) == kept


@given(TEXT, TEXT)
def test_two_names_are_two_storage_names(first, second):
    """No two CSI names share a folder."""
    assert (storage_name(first) == storage_name(second)) == (first == second)


@pytest.mark.gate("volume-id-in-unsafe-characters")
@pytest.mark.parametrize("name", UNSAFE, ids=[f"name-{i}" for i in range(len(UNSAFE))])
def test_an_unsafe_name_becomes_a_hash(name):
    """The hash is the documented one: `h-` and 32 hex digits of SHA-256."""
    assert storage_name(name) == "h-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def test_a_plain_name_stays_itself():
    """What the provisioner calls a volume is what a person finds in the pool."""
    assert (
        storage_name("pvc-2ad7b367-9fed-480d-a747-1ca5ce3809d4") == "pvc-2ad7b367-9fed-480d-a747-1ca5ce3809d4"
    )


def test_nobody_can_name_a_volume_like_a_hash():
    """A name that looks like a hash of ours is hashed itself, so it cannot meet another one's."""
    looks = "h-" + "0" * 32
    assert storage_name(looks) != looks


POOLS = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
UIDS = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)


@given(st.sampled_from([VolumeId, SnapshotId]), POOLS, UIDS, TEXT)
def test_ids_come_back_as_they_were(kind, pool, uid, name):
    """An id says all of itself, in at most the bytes that CSI allows."""
    given_out = kind(pool, uid, storage_name(name))
    assert kind.parse(str(given_out)) == given_out
    assert len(str(given_out).encode()) <= MAX_NAME_BYTES


@given(st.text())
def test_any_other_text_is_no_id(text):
    """A text is an id exactly when it is what an id prints as."""
    for kind in (VolumeId, SnapshotId):
        try:
            parsed = kind.parse(text)
        except MalformedId:
            continue
        assert str(parsed) == text


@pytest.mark.gate("volume-id-in-unsafe-characters")
@pytest.mark.parametrize(
    "text",
    [
        "s1:default:0a1b2c3d:x",
        "v2:default:0a1b2c3d:x",
        "v1:Default:0a1b2c3d:x",
        "v1:default:0A1B2C3D:x",
        "v1:default:0a1b2c3:x",
        "v1:default:0a1b2c3d:",
        "v1:default:0a1b2c3d:..",
        "v1:default:0a1b2c3d:a/b",
        "v1:default:0a1b2c3d:a\n",
        "v1:default:0a1b2c3d:a:b",
        "v1:" + "p" * 32 + ":0a1b2c3d:x",
        "v1:default:0a1b2c3d:" + "x" * 64,
    ],
)
def test_an_id_that_was_never_given_out(text):
    """Ids are read strictly: what is not exactly one never reaches a path or a command."""
    with pytest.raises(MalformedId):
        VolumeId.parse(text)


@pytest.mark.parametrize(
    ("required", "limit", "size", "admitted"),
    [(0, 0, 5, True), (5, 0, 5, True), (6, 0, 5, False), (0, 5, 5, True), (0, 4, 5, False), (4, 6, 5, True)],
)
def test_which_sizes_a_caller_takes(required, limit, size, admitted):
    """Zero means no wish and no limit."""
    assert SizeRange(required, limit).admits(size) is admitted


def test_access_modes_say_who_may_do_what():
    """What the workflows read from a mode's name is right for each of CSI's."""
    assert {mode.value for mode in AccessMode if mode.single_node} == {
        "SINGLE_NODE_WRITER",
        "SINGLE_NODE_READER_ONLY",
        "SINGLE_NODE_SINGLE_WRITER",
        "SINGLE_NODE_MULTI_WRITER",
    }
    assert {mode.value for mode in AccessMode if mode.read_only} == {
        "SINGLE_NODE_READER_ONLY",
        "MULTI_NODE_READER_ONLY",
    }
