"""Records are read strictly, and a damaged one concerns its own volume only."""

import json

import pytest

from katacsi.backends.api import ContentSource, Facts, FormatState
from katacsi.backends.loopfile import factfile
from katacsi.backends.loopfile.factfile import Content
from katacsi.errors import CorruptRecord
from katacsi.model import MIB

FACTS = Facts(FormatState.FORMATTED, "ext4", "6b1f2a52-0e5c-4c8e-9a53-000000000003", guest_written=True)


def edit(path, change):
    """Change a record as somebody would who knows its form."""
    content = factfile.decode(path.read_bytes())
    record = {**json.loads(content.line), "facts": json.loads(content.facts)}
    change(record)
    facts = json.dumps(record.pop("facts")).encode()
    path.write_bytes(factfile.encode(Content(json.dumps(record).encode(), content.number, facts)))


DAMAGE = {
    "empty": lambda path: path.write_text(""),
    "torn": lambda path: path.write_text(path.read_text()[:40]),
    "no-json": lambda path: path.write_bytes(bytes(512)),
    "newer-schema": lambda path: edit(path, lambda record: record.update(schema=2)),
    "unknown-key": lambda path: edit(path, lambda record: record.update(surprise=1)),
    "unknown-state": lambda path: edit(path, lambda record: record["facts"].update(format="perhaps")),
    "negative-size": lambda path: edit(path, lambda record: record.update(size_bytes=-1)),
    "other-volumes": lambda path: edit(path, lambda record: record.update(name="other")),
    "bad-source": lambda path: edit(path, lambda record: record.update(source="x1:pool:00000000:a")),
    "facts-cut-off": lambda path: path.write_bytes(path.read_bytes()[:-8192]),
    "absent": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_record_is_one_volumes_trouble(opened, folder, request_for, damage):
    """A volume without a usable record is neither absent, nor deleted, nor made anew; all others work."""
    backend = await opened()
    good, bad = [await backend.create(request_for(name)) for name in ("good", "bad")]
    damage(folder / "volumes" / "bad" / "volume.json")
    await backend.close()
    backend = await opened()
    error = Exception if damage is DAMAGE["folder"] else CorruptRecord
    for call in (
        backend.get(bad.id),
        backend.find("bad"),
        backend.create(request_for("bad")),
        backend.delete(bad.id),
        backend.attach(bad.id, {}, {}),
        backend.create(request_for("copy", source=ContentSource(bad.id))),
    ):
        with pytest.raises(error, match="bad"):
            await call
    assert (folder / "volumes" / "bad" / "disk.img").stat().st_size == MIB
    assert await backend.get(good.id) == good
    assert (await backend.create(request_for("new"))).size_bytes == MIB
    if damage is not DAMAGE["folder"]:
        listed = {volume.csi_name: volume.condition for volume in (await backend.list("", 0)).items}
        assert {name: condition.abnormal for name, condition in listed.items()} == {
            "good": False,
            "bad": True,
            "new": False,
        }
        assert str(folder / "volumes" / "bad") in listed["bad"].message


@pytest.mark.parametrize("damage", ["lost", "short"])
async def test_a_damaged_disk_is_said_to_be(opened, folder, request_for, damage):
    """A volume whose file is gone or lost its end is abnormal, and keeps the size it should have."""
    backend = await opened()
    volume = await backend.create(request_for("a", 2 * MIB))
    disk = folder / "volumes" / "a" / "disk.img"
    disk.unlink() if damage == "lost" else disk.write_bytes(b"short")
    found = await backend.get(volume.id)
    assert found.condition.abnormal
    assert str(disk) in found.condition.message
    assert found.size_bytes == 2 * MIB


async def test_a_growth_that_a_crash_cut_short_is_finished(opened, folder, request_for):
    """With the file grown and the record not, the volume has its new size, and a retry makes both agree."""
    backend = await opened()
    volume = await backend.create(request_for("a"))
    with (folder / "volumes" / "a" / "disk.img").open("r+b") as file:
        file.truncate(4 * MIB)
    assert (await backend.get(volume.id)).size_bytes == 4 * MIB
    assert await backend.expand(volume.id, 3 * MIB) == 4 * MIB
    content = factfile.decode((folder / "volumes" / "a" / "volume.json").read_bytes())
    assert json.loads(content.line)["size_bytes"] == 4 * MIB


async def test_a_record_holds_everything(opened, request_for):
    """Names, parameters, attributes and facts come back as they were given, whatever characters they have."""
    backend = await opened()
    request = request_for(
        'Name with "quotes" and ünïcode\n',
        parameters={"allocation": "thick"},
        attributes={"a": "\x00 \\ 'b'"},
    )
    volume = await backend.create(request)
    await backend.compare_and_set_facts(volume.id, volume.facts, FACTS)
    await backend.close()
    found = await (await opened()).find(request.csi_name)
    assert (found.csi_name, found.parameters, found.attributes, found.facts) == (
        request.csi_name,
        request.parameters,
        request.attributes,
        FACTS,
    )


async def test_the_cost_of_a_call_does_not_grow_with_the_pool(opened, request_for, monkeypatch):
    """Making, finding and asking for capacity look at no other volume: they never list the folder."""
    from katacsi.host import directories, files

    backend = await opened()
    volumes = [await backend.create(request_for(f"pvc-{number}")) for number in range(20)]
    listed, read = [], []
    real_list, real_read = directories.list_directory, files.read
    monkeypatch.setattr(directories, "list_directory", lambda path: listed.append(path) or real_list(path))
    monkeypatch.setattr(files, "read", lambda path: read.append(path) or real_read(path))
    await backend.create(request_for("next"))
    await backend.capacity({})
    await backend.get(volumes[3].id)
    await backend.expand(volumes[4].id, 2 * MIB)
    assert listed == []
    assert len(read) <= 6


async def test_a_record_that_changed_is_read_anew(opened, folder, request_for):
    """A record is what its file says now, also after an edit of the same length in the same moment."""
    pool = await opened()
    volume = await pool.create(request_for("a"))
    path = folder / "volumes" / volume.id.name / "volume.json"
    for name in ("ext4", "ext3", "ext2"):
        edit(path, lambda record, name=name: record["facts"].update(fs_type=name))
        assert (await pool.get(volume.id)).facts.fs_type == name
    path.write_text("")
    with pytest.raises(CorruptRecord):
        await pool.get(volume.id)
    path.unlink()
    with pytest.raises(CorruptRecord):
        await pool.get(volume.id)
