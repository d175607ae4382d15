"""volume.json: a line that stays and two places for facts, of which a power cut leaves one whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.backends.api import ContentSource
from katacsi.backends.loopfile.factfile import ROOM, Content, Damaged, decode, encode, overwriting
from katacsi.errors import CorruptRecord, KatacsiError

SECTOR = 512
BLOCK = 4096
LINE = b'{"schema":1}'

lines = st.dictionaries(st.text(), st.text(max_size=3000), max_size=3).map(
    lambda value: json.dumps(value).encode()
)
some_facts = st.dictionaries(st.text(max_size=10), st.text(max_size=80), max_size=5).map(
    lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
)


def amended(data: bytes, number: int, facts: bytes) -> bytes:
    offset, piece = overwriting(len(data), number, facts)
    assert offset % BLOCK == 0, "a place begins a block, so a sector of it is one of any disk's"
    assert len(piece) == BLOCK
    return data[:offset] + piece + data[offset + len(piece) :]


def torn(before: bytes, after: bytes, kept: int) -> bytes:
    """A power cut during a write: of its sectors, those whose bits are set in `kept` reached the disk."""
    return b"".join(
        (after if kept >> (start % BLOCK // SECTOR) & 1 else before)[start : start + SECTOR]
        for start in range(0, len(before), SECTOR)
    )


@given(lines, st.integers(0, 9), st.lists(some_facts, min_size=1, max_size=5))
def test_what_was_written_last_is_read(line, first, history):
    data = encode(Content(line, first, history[0]))
    length = len(data)
    for number, facts in enumerate(history[1:], first + 1):
        data = amended(data, number, facts)
        assert decode(data) == Content(line, number, facts)
    assert len(data) == length


@given(st.lists(some_facts, min_size=3, max_size=3), st.integers(0, 2), st.integers(0, 255), st.data())
def test_a_torn_write_leaves_the_former_facts_or_the_new(history, number, kept, data):
    """Whichever sectors of it reached the disk; and the write that repeats it may be torn as well."""
    oldest, old, new = history
    before = encode(Content(LINE, number, oldest))
    if data.draw(st.booleans()):
        before = amended(before, number + 1, old)
        number, oldest = number + 1, old
    after = amended(before, number + 1, new)
    left = torn(before, after, kept)
    assert decode(left).facts in (oldest, new)
    if decode(left).facts != new:
        other = data.draw(some_facts)
        again = torn(left, amended(left, number + 1, other), data.draw(st.integers(0, 255)))
        assert decode(again).facts in (oldest, other)
        assert decode(amended(again, number + 1, new)) == Content(LINE, number + 1, new)


def test_facts_of_two_torn_writes_are_never_read_as_one():
    """The second has the number of the first; a sector of each together are facts that nobody wrote."""
    before = encode(Content(LINE, 0, b"old"))
    first = torn(before, amended(before, 1, b"a" * 900), 0b001)
    second = torn(first, amended(first, 1, b"b" * 900), 0b110)
    assert decode(second).facts == b"old"


def test_a_part_that_comes_from_nowhere_is_damage():
    """A torn place is older state only if the other one holds what was written right before it."""
    data = encode(Content(LINE, 2, b"old"))
    far = torn(data, amended(data, 5, b"a" * 900), 1)
    with pytest.raises(Damaged, match="a part of facts 5 beside facts 2"):
        decode(far)


@given(some_facts, some_facts, st.integers(1, 9))
def test_the_former_facts_stay_until_the_new_are_whole(old, new, number):
    """They lie in the other place: without the block that was written they are what is there."""
    data = encode(Content(LINE, number, old))
    offset, _ = overwriting(len(data), number + 1, new)
    after = amended(data, number + 1, new)
    assert decode(after).facts == new
    assert decode(after[:offset] + b" " * BLOCK + after[offset + BLOCK :]).facts == old


@pytest.mark.parametrize("size", [5, 900, ROOM])
@pytest.mark.parametrize("sector", range(8))
def test_a_place_that_is_not_whole_is_damage_and_no_older_state(size, sector):
    """Older facts might say that nothing is formatted yet."""
    data = encode(Content(LINE, 1, b"a" * size))
    data = amended(data, 2, b"b" * size)
    start = overwriting(len(data), 2, b"")[0] + sector * SECTOR
    if b"b" not in data[start : start + SECTOR]:
        return  # a blank one
    for broken in (bytes(SECTOR), data[start : start + SECTOR].replace(b"bbb", b"bab", 1)):
        with pytest.raises(Damaged, match="checksum"):
            decode(data[:start] + broken + data[start + SECTOR :])


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


def test_there_is_room_for_layers():
    """The facts that there are need one sector; those of layers to come may need more."""
    data = amended(encode(Content(LINE, 0, b"{}")), 10**9, b"x" * ROOM)
    assert decode(data).facts == b"x" * ROOM
    assert ROOM >= 3000
    with pytest.raises(ValueError, match=str(ROOM)):
        overwriting(len(data), 1, b"x" * (ROOM + 1))


def test_what_a_former_version_wrote_is_read():
    """It had one sector for a place, and filled it to its end."""
    place = b'{"crc32": "d31e1700", "number": 3, "facts": {"note": "%b"}}' % (b"x" * 440)
    data = LINE.ljust(BLOCK) + b" " * BLOCK + place.ljust(BLOCK - 1) + b"\n"
    assert json.loads(decode(data).facts) == {"note": "x" * 440}


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


async def test_facts_of_a_later_version_are_kept(opened, folder, request_for):
    """They survive changes by this version, and go to copies: they may say something of the bytes."""
    pool = await opened()
    volume = await pool.create(request_for("a"))
    path = folder / "volumes" / volume.id.name / "volume.json"
    content = decode(path.read_bytes())
    later = {**json.loads(content.facts), "encrypted": {"header": "x" * 1000}}
    path.write_bytes(encode(Content(content.line, content.number, json.dumps(later).encode())))
    facts = (await pool.get(volume.id)).facts
    await pool.compare_and_set_facts(volume.id, facts, facts.with_(guest_written=True))
    snapshot = await pool.create_snapshot("s", volume.id)
    await pool.close()
    pool = await opened()
    copy = await pool.create(request_for("copy", source=ContentSource(snapshot.id)))
    for made in (volume, copy):
        stored = decode((folder / "volumes" / made.id.name / "volume.json").read_bytes()).facts
        assert json.loads(stored)["encrypted"] == {"header": "x" * 1000}
        assert (await pool.get(made.id)).facts.guest_written


async def test_facts_that_have_no_room_change_nothing(opened, request_for):
    """They are refused in words that name the volume."""
    pool = await opened()
    volume = await pool.create(request_for("a"))
    with pytest.raises(KatacsiError, match=f"volume a: .* room for {ROOM}"):
        await pool.compare_and_set_facts(volume.id, volume.facts, volume.facts.with_(fs_type="x" * ROOM))
    assert await pool.get(volume.id) == volume
