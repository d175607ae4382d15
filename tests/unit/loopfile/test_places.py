"""volume.json: a line that stays and two places for facts, of which a power cut leaves one whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from katacsi.backends.api import Facts, FormatState
from katacsi.backends.loopfile.places import Content, Damaged, decode, encode, overwriting
from katacsi.errors import CorruptRecord

SECTOR = 512
LINE = b'{"schema":1}'

lines = st.dictionaries(st.text(), st.text(max_size=3000), max_size=3).map(
    lambda value: json.dumps(value).encode()
)
some_facts = st.dictionaries(st.text(max_size=10), st.integers(0, 2**64), max_size=5).map(
    lambda value: json.dumps(value).encode()
)


def amended(data: bytes, number: int, facts: bytes) -> bytes:
    offset, piece = overwriting(len(data), number, facts)
    assert offset % 4096 == 0, "a place begins a block, so a sector of it is one of any disk's"
    assert len(piece) == SECTOR
    return data[:offset] + piece + data[offset + len(piece) :]


@given(lines, st.integers(0, 9), st.lists(some_facts, min_size=1, max_size=5))
def test_what_was_written_last_is_read(line, first, history):
    data = encode(Content(line, first, history[0]))
    length = len(data)
    for number, facts in enumerate(history[1:], first + 1):
        data = amended(data, number, facts)
        assert decode(data) == Content(line, number, facts)
    assert len(data) == length


@given(some_facts, some_facts, st.integers(1, 9))
def test_the_former_facts_stay_until_the_new_are_whole(old, new, number):
    """They lie in the other place: without the sector that was written they are what is there."""
    data = encode(Content(LINE, number, old))
    offset, _ = overwriting(len(data), number + 1, new)
    after = amended(data, number + 1, new)
    assert decode(after).facts == new
    assert decode(after[:offset] + b" " * SECTOR + after[offset + SECTOR :]).facts == old


def test_a_place_that_is_not_whole_is_damage_and_no_older_state():
    """Older facts might say that nothing is formatted yet."""
    data = encode(Content(LINE, 1, b'{"format": "formatting"}'))
    data = amended(data, 2, b'{"format": "formatted"}')
    offset, _ = overwriting(len(data), 2, b"{}")
    for broken in (
        data[:offset] + b"\0" * SECTOR + data[offset + SECTOR :],
        data.replace(b"formatted", b"formattee"),
    ):
        with pytest.raises(Damaged, match="checksum"):
            decode(broken)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"{}\n", b" " * 8192, b" " * 12288, b"x" * 12289, b"\0" * 12288]
)
def test_anything_else_is_no_record(data):
    with pytest.raises(Damaged):
        decode(data)


@given(st.binary(max_size=9000))
def test_bytes_from_anywhere_are_refused_in_words(data):
    with pytest.raises(Damaged):
        decode(data)


def test_facts_beyond_a_sector_are_refused():
    with pytest.raises(ValueError, match="512"):
        overwriting(12288, 1, b"{%s}" % (b" " * SECTOR))


def test_the_largest_facts_there_are_fit():
    largest = Facts(
        format=max(FormatState, key=lambda state: len(state.value)),
        fs_type="btrfs",
        fs_uuid="0" * 36,
        guest_written=False,
        inherited_uuid=False,
        pending_size=2**63,
    )
    text = TypeAdapter(Facts).dump_json(largest)
    assert len(overwriting(12288, 10**9, text)[1]) == SECTOR


def test_each_line_is_json_for_whoever_looks(tmp_path):
    data = amended(encode(Content(LINE, 0, b'{"a": 1}')), 1, b'{"a": 2}')
    values = [json.loads(line) for line in data.splitlines()]
    assert [value.get("facts") for value in values] == [None, {"a": 1}, {"a": 2}]


# -- in a pool -----------------------------------------------------------------------------------------


async def test_facts_are_changed_without_another_file(opened, folder, request_for):
    backend = await opened()
    volume = await backend.create(request_for("a"))
    path = folder / "volumes" / volume.id.name / "volume.json"
    before = path.stat()
    facts = volume.facts
    for fs_type in ("ext4", "xfs", "btrfs"):
        new = facts.with_(fs_type=fs_type)
        await backend.compare_and_set_facts(volume.id, facts, new)
        facts = new
        assert (await backend.get(volume.id)).facts == facts
    after = path.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


async def test_a_growth_keeps_the_facts(opened, request_for):
    pool = await opened()
    volume = await pool.create(request_for("a"))
    facts = volume.facts.with_(fs_type="ext4")
    await pool.compare_and_set_facts(volume.id, volume.facts, facts)
    size = await pool.expand(volume.id, volume.size_bytes * 2)
    await pool.close()
    pool = await opened()
    found = await pool.get(volume.id)
    assert (found.size_bytes, found.facts) == (size, facts)
    newer = facts.with_(guest_written=True)
    await pool.compare_and_set_facts(volume.id, facts, newer)
    assert (await pool.get(volume.id)).facts == newer


async def test_damaged_facts_are_never_taken_for_older_ones(opened, folder, request_for):
    pool = await opened()
    volume = await pool.create(request_for("a"))
    await pool.compare_and_set_facts(volume.id, volume.facts, volume.facts.with_(fs_type="ext4"))
    path = folder / "volumes" / volume.id.name / "volume.json"
    path.write_bytes(path.read_bytes().replace(b"ext4", b"ext3"))
    with pytest.raises(CorruptRecord, match="checksum is wrong"):
        await pool.get(volume.id)
