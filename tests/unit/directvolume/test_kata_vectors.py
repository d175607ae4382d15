"""Names, bytes and readings against the answers that Kata's own code gave; each case says why it is there."""

import base64

import pytest

from katacsi.directvolume.names import entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import CorruptRecord, InvalidRequest
from support.kata_runtime import records
from support.kata_vectors import VECTORS, why


def text_of(vector):
    """Give the bytes of a record that was read."""
    return base64.b64decode(vector["base64"]) if "base64" in vector else vector["text"].encode()


def is_no_group(fields):
    """Whether the group is one that the agent fails at, or ignores; there we are stricter than both."""
    group = fields.get("metadata", {}).get("fsGroup", "1")
    return not group.isdecimal() or not 0 < int(group) < 1 << 32


def made_of(fields):
    """Make our record of the fields of Kata's."""
    metadata = fields.get("metadata", {})
    return DirectVolumeRecord(
        fields["device"],
        fields["fstype"],
        tuple(fields.get("options", ())),
        int(metadata["fsGroup"]) if "fsGroup" in metadata else None,
        metadata.get("fsGroupChangePolicy", ""),
        fields["volume-type"],
    )


@pytest.mark.parametrize("vector", VECTORS["names"], ids=why)
def test_an_entry_has_the_name_that_kata_gives_it(vector):
    """And where Kata cannot, because the name is too long for a file system, neither do we."""
    assert vector["go"] == vector["rust"]
    if vector["go"] is None:
        with pytest.raises(InvalidRequest):
            entry_name(vector["path"])
    else:
        assert entry_name(vector["path"]) == vector["go"]


@pytest.mark.parametrize("vector", VECTORS["written"], ids=why)
def test_a_record_has_the_bytes_that_go_writes(vector):
    """Byte for byte, escapes too."""
    assert made_of(vector["record"]).to_json() == vector["text"].encode()


@pytest.mark.parametrize("vector", VECTORS["read"], ids=why)
def test_a_record_is_read_only_where_both_runtimes_read_the_same(vector):
    """What we take for a record is one to both; what one of them misreads is corrupt."""
    if vector["go"] == vector["rust"] is not None and not is_no_group(vector["rust"]):
        assert DirectVolumeRecord.from_json(text_of(vector), "mountInfo.json") == made_of(vector["rust"])
    else:
        with pytest.raises(CorruptRecord, match=r"mountInfo\.json"):
            DirectVolumeRecord.from_json(text_of(vector), "mountInfo.json")


@pytest.mark.parametrize("vector", VECTORS["read"], ids=why)
def test_the_stand_in_reads_what_kata_reads(vector):
    """The guest tier's runtimes, which go by these readers, are as lenient and as strict as Kata's."""
    assert fields_read(records.go_parse, text_of(vector)) == vector["go"]
    assert fields_read(records.rust_parse, text_of(vector)) == vector["rust"]


def fields_read(parse, data):
    """Give the fields as the vectors have them: empty ones are left out."""
    try:
        record = parse(data)
    except (records.Unusable, ValueError):
        return None
    fields = {"volume-type": record.volume_type, "device": record.device, "fstype": record.fs_type}
    more = {"metadata": dict(record.metadata), "options": list(record.options)}
    return fields | {key: value for key, value in more.items() if value}


def test_the_vectors_hold_both_kinds():
    """Or the tests above would say nothing."""
    read = VECTORS["read"]
    assert sum(vector["go"] == vector["rust"] != None for vector in read) >= 10  # noqa: E711 -- JSON's null
    assert sum(vector["go"] is not None and vector["rust"] is None for vector in read) >= 10
    assert sum(vector["go"] is None and vector["rust"] is not None for vector in read) >= 1


def test_every_case_says_why_it_is_one():
    """What a case is for is all that a reader has when it fails; it is the name of its test."""
    for kind in ("names", "written", "read", "stories"):
        reasons = [why(case) for case in VECTORS[kind]]
        assert len(set(reasons)) == len(reasons)


async def test_sandbox_ids_are_found_where_kata_leaves_them(tmp_path):
    """Beside the record; Kata's own lookup takes the first of those that we find."""
    (story,) = (story for story in VECTORS["stories"] if story["name"] == "sandboxes")
    for name, content in story["go"]["tree"].items():
        mode, _, text = content.partition(" ")
        if mode == "0700":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).write_text(text)
    asked = {step["sandbox"] for step in story["steps"] if "sandbox" in step}
    found = DirectVolumeWriter(tmp_path).sandbox_ids("/v")
    assert found == sorted(asked - {"aa"}), "the first came before there was a record, and Kata refused it"
    assert story["go"]["answers"][-1] == {"ok": True, "sandbox": found[0]}
    (entry,) = DirectVolumeWriter(tmp_path).listing()
    assert (entry.target, entry.sandbox_ids, entry.problem) == ("/v", tuple(found), "")
