"""Names, bytes and readings against the answers of Kata's own code, kept by tools/kata_vectors.py."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from katacsi.directvolume.names import entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.errors import CorruptRecord, InvalidRequest

TREE = Path(__file__).resolve().parents[3]
VECTORS = json.loads((TREE / "tests" / "vectors" / "kata-direct-volume.json").read_text())


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


@pytest.mark.parametrize("vector", VECTORS["names"], ids=lambda vector: vector["path"][:20])
def test_an_entry_has_the_name_that_kata_gives_it(vector):
    """And where Kata cannot, because the name is too long for a file system, neither do we."""
    if vector["entry"] is None:
        with pytest.raises(InvalidRequest):
            entry_name(vector["path"])
    else:
        assert entry_name(vector["path"]) == vector["entry"]


@pytest.mark.parametrize("vector", VECTORS["written"], ids=lambda vector: vector["text"][-40:])
def test_a_record_has_the_bytes_that_go_writes(vector):
    """Byte for byte, escapes too."""
    assert made_of(vector["record"]).to_json() == vector["text"].encode()


@pytest.mark.parametrize("vector", VECTORS["read"], ids=lambda vector: ascii(text_of(vector))[2:60])
def test_a_record_is_read_only_where_both_runtimes_read_the_same(vector):
    """What we take for a record is one to both; what one of them misreads is corrupt."""
    if vector["go"] == vector["rust"] is not None and not is_no_group(vector["rust"]):
        assert DirectVolumeRecord.from_json(text_of(vector), "mountInfo.json") == made_of(vector["rust"])
    else:
        with pytest.raises(CorruptRecord, match=r"mountInfo\.json"):
            DirectVolumeRecord.from_json(text_of(vector), "mountInfo.json")


def test_the_vectors_hold_both_kinds():
    """Or the tests above would say nothing."""
    read = VECTORS["read"]
    assert sum(vector["go"] == vector["rust"] != None for vector in read) >= 10  # noqa: E711 -- JSON's null
    assert sum(vector["go"] is not None and vector["rust"] is None for vector in read) >= 10
    assert sum(vector["go"] is None and vector["rust"] is not None for vector in read) >= 1


@pytest.mark.timeout(1800)  # it compiles Kata's crate
def test_kata_still_answers_so():
    """On demand: with Kata's source at hand, ask it again."""
    if not os.environ.get("KATACSI_SOURCE_KATA"):
        pytest.skip("KATACSI_SOURCE_KATA names no clone of kata-containers, and no registry serves its code")
    answer = subprocess.run(
        [sys.executable, TREE / "tools" / "kata_vectors.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
