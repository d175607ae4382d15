"""What the two runtimes make of a record, by the rules of docs/kata-contract.md; no guest is needed for it.

The records are those that a driver may leave by mistake. The answers for Go are those of Kata's own package,
src/runtime/pkg/direct-volume at 7c6ba40c54, which was run on each; those for runtime-rs are serde_json's for
a struct like that of src/libs/kata-types/src/mount.rs. The tests of the guest tier rely on both readers.
"""

from __future__ import annotations

import pytest

from katacsi.directvolume.names import entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from support.kata_runtime import records
from support.kata_runtime.records import CreateFailed, Record, Unusable

GOOD = b'{"volume-type":"directvol","device":"/dev/x","fstype":"ext4"}'
READ = Record("directvol", "/dev/x", "ext4")
REFUSED = "refused"


def more(text):
    """A good record with something at its end."""
    return GOOD[:-1] + b"," + text + b"}"


def read(metadata=None, options=()):
    """What is read of a good record with more in it."""
    return Record("directvol", "/dev/x", "ext4", metadata or {}, options)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "records"


def put(root, data, source="/target"):
    """Leave a record for a source; None: only its folder."""
    folder = root / entry_name(source)
    folder.mkdir(parents=True)
    if data is not None:
        (folder / "mountInfo.json").write_bytes(data)


def looked_up(lookup, root, source="/target"):
    """What a lookup ends with."""
    try:
        return lookup(root, source)
    except (CreateFailed, Unusable):
        return REFUSED


@pytest.mark.parametrize(
    ("data", "go", "rust"),
    [
        pytest.param(GOOD, READ, READ, id="a good one"),
        pytest.param(None, None, REFUSED, id="an empty folder"),
        pytest.param(b"", REFUSED, REFUSED, id="an empty file"),
        pytest.param(GOOD[:30], REFUSED, REFUSED, id="a torn file"),
        pytest.param(GOOD + b"x", REFUSED, REFUSED, id="garbage at the end"),
        pytest.param(more(b'"more":{"a":[1]}'), READ, READ, id="an unknown key"),
        pytest.param(GOOD.replace(b"fstype", b"FsType"), READ, REFUSED, id="a key in another case"),
        pytest.param(more(b'"fstype":"ext4"'), READ, REFUSED, id="a key twice"),
        pytest.param(more(b'"fstype":null'), READ, REFUSED, id="a key twice, then null"),
        pytest.param(more(b'"metadata":null,"options":null'), READ, REFUSED, id="null"),
        pytest.param(
            more(b'"metadata":{"a":"1","a":"2"}'), read({"a": "2"}), read({"a": "2"}), id="a name twice"
        ),
        pytest.param(
            more(b'"metadata":{"a":"1"},"metadata":{"b":"2"}'),
            read({"a": "1", "b": "2"}),
            REFUSED,
            id="metadata twice",
        ),
        pytest.param(more(b'"metadata":{"a":null}'), read({"a": ""}), REFUSED, id="null for text"),
        pytest.param(more(b'"metadata":{"fsGroup":1000}'), REFUSED, REFUSED, id="a number"),
        pytest.param(more(b'"metadata":"{}"'), REFUSED, REFUSED, id="quoted metadata"),
        pytest.param(more(b'"options":["ro"]'), read(options=("ro",)), read(options=("ro",)), id="an option"),
        pytest.param(more(b'"options":[null]'), read(options=("",)), REFUSED, id="null for an option"),
        pytest.param(more(b'"options":"ro"'), REFUSED, REFUSED, id="options that are no list"),
        pytest.param(more(b'"more":NaN'), REFUSED, REFUSED, id="what only JavaScript knows"),
        pytest.param(
            GOOD.replace(b"/dev/x", b"\\ud800"),
            Record("directvol", "\ufffd", "ext4"),
            REFUSED,
            id="half a character",
        ),
        pytest.param(
            GOOD.replace(b"/dev/x", b"\xff"), Record("directvol", "\ufffd", "ext4"), REFUSED, id="not UTF-8"
        ),
        pytest.param(b'{"fstype":"ext4"}', Record(fs_type="ext4"), REFUSED, id="keys missing"),
        pytest.param(b"null", Record(), REFUSED, id="nothing but null"),
        pytest.param(b"[]", REFUSED, REFUSED, id="a list"),
    ],
)
def test_the_runtimes_disagree(root, data, go, rust):
    """The Go runtime is lenient and passes over what it cannot read; runtime-rs refuses the container."""
    put(root, data)
    assert looked_up(records.go_lookup, root) == go
    assert looked_up(records.rust_lookup, root) == rust


def test_a_path_that_is_too_long_is_shared_by_both(root):
    """base64 of 190 bytes is no file name: Go logs it and shares the folder, runtime-rs does so quietly."""
    put(root, GOOD, "/" + "x" * 188)
    assert looked_up(records.go_lookup, root, "/" + "x" * 188) == READ
    assert looked_up(records.go_lookup, root, "/" + "x" * 189) == REFUSED
    assert looked_up(records.rust_lookup, root, "/" + "x" * 189) is None


def test_no_record_at_all(root):
    """Both share a folder that no record is for."""
    assert looked_up(records.go_lookup, root) is None
    assert looked_up(records.rust_lookup, root) is None


def test_what_the_driver_writes_is_read_alike(root):
    """Both get every field of a record of ours."""
    record = DirectVolumeRecord(
        "/dev/loop7", "xfs", ("nouuid", "noatime"), fs_group=1000, fs_group_change_policy="OnRootMismatch"
    )
    put(root, record.to_json())
    assert looked_up(records.go_lookup, root) == looked_up(records.rust_lookup, root)
    assert looked_up(records.go_lookup, root) == Record(
        "directvol",
        "/dev/loop7",
        "xfs",
        {"fsGroup": "1000", "fsGroupChangePolicy": "OnRootMismatch"},
        ("nouuid", "noatime"),
    )
