"""What was staged and published since boot."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katacsi.errors import HostError
from katacsi.volumes.publish.mark import Frozen, Published, Staged, file_name
from katacsi.volumes.publish.marks import Marks
from katacsi.volumes.publish.mode import Mode

PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80),
    min_size=1,
    max_size=20,
).map(lambda parts: "/" + "/".join(parts))


def published(path="/pods/1/mount", volume_id="v1:default:0a1b2c3d:pvc-1", **other):
    """Make a published target."""
    facts = {
        "mode": Mode.DIRECT,
        "access_type": "mount",
        "access_mode": "SINGLE_NODE_MULTI_WRITER",
        "fs_type": "ext4",
        "mount_flags": ("noatime",),
        "read_only": False,
        "mount_group": "1000",
        "fs_group_change_policy": "Always",
        "device": "/dev/loop7",
        "staging": "/staging/1",
    }
    return Published(path=path, volume_id=volume_id, **facts | other)


def staged(path="/staging/1", volume_id="v1:default:0a1b2c3d:pvc-1"):
    """Make a staging."""
    return Staged(
        path,
        volume_id,
        "mount",
        "SINGLE_NODE_MULTI_WRITER",
        "ext4",
        (),
        {"portal": "10.0.0.1"},
        ("/dev/loop7",),
    )


FROZEN = Frozen("/staging/1", "v1:default:0a1b2c3d:pvc-1")


def marks_in(state):
    """Give all marks, by every way in which they are asked for."""
    volume_id = published().volume_id
    asked = [
        *state.all_published(),
        *state.all_staged(),
        *state.all_frozen(),
        *state.targets_of(volume_id),
        *state.stagings_of(volume_id),
        state.published(published().path),
        state.staged(staged().path),
    ]
    known = [mark for mark in asked if mark is not None]
    return [mark for number, mark in enumerate(known) if mark not in known[:number]]


async def loaded(directory):
    """Start a process on this directory."""
    state = Marks(directory)
    await state.load()
    return state


@given(PATHS, PATHS)
def test_two_paths_have_two_files(first, second):
    """No path's facts overwrite those of another, however long the paths are."""
    assert (file_name(first) == file_name(second)) == (first == second)
    for name in (file_name(first), file_name(second)):
        assert len(os.fsencode(name)) <= 255
        assert "/" not in name


@settings(max_examples=30)
@given(PATHS, st.lists(st.text(max_size=10), max_size=3).map(tuple), st.booleans())
async def test_facts_outlive_the_process(path, flags, read_only):
    """What one process remembers the next one reads, byte for byte."""
    fact = published(path, mount_flags=flags, read_only=read_only)
    with tempfile.TemporaryDirectory() as directory:
        (await loaded(Path(directory))).add(fact)
        assert (await loaded(Path(directory))).published(path) == fact


async def test_facts_are_found_by_path_and_by_volume(tmp_path):
    """Each question that the workflows ask has its answer, and only of the volume asked for."""
    state = await loaded(tmp_path)
    mine, other = published("/b"), published("/c", "v1:default:0a1b2c3d:pvc-2")
    also = published("/a")
    for item in (mine, other, also, staged()):
        state.add(item)
    for answer in (state, await loaded(tmp_path)):
        assert answer.published("/b") == mine
        assert answer.published("/staging/1") is None
        assert answer.staged("/staging/1") == staged()
        assert answer.targets_of(mine.volume_id) == [also, mine]
        assert answer.stagings_of(mine.volume_id) == [staged()]
        assert answer.targets_of("v1:default:0a1b2c3d:pvc-3") == []
        assert len(answer.all_published()) == 3
        assert answer.all_staged() == [staged()]
    assert mine.mode is Mode.DIRECT


async def test_what_is_removed_is_gone(tmp_path):
    """Forgetting is durable, and forgetting twice is forgetting once."""
    state = await loaded(tmp_path)
    state.add(published())
    state.add(staged())
    for _ in range(2):
        state.remove(published())
        state.remove(staged())
    for answer in (state, await loaded(tmp_path)):
        assert answer.all_published() == answer.all_staged() == []
        assert answer.targets_of(published().volume_id) == []
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("mark", [published(), staged(), FROZEN], ids=lambda mark: type(mark).__name__)
async def test_what_could_not_be_written_is_not_remembered(tmp_path, mark):
    """A mark that would be gone after a restart is no mark before: the caller is told, and tries again."""
    state = await loaded(tmp_path)
    folders = list(tmp_path.iterdir())
    for folder in folders:
        folder.rmdir()
        folder.touch()
    with pytest.raises(HostError):
        state.add(mark)
    assert marks_in(state) == []
    for folder in folders:
        folder.unlink()
    state.add(mark)
    assert marks_in(state) == marks_in(await loaded(tmp_path)) == [mark]


@pytest.mark.parametrize("mark", [published(), staged(), FROZEN], ids=lambda mark: type(mark).__name__)
async def test_what_could_not_be_removed_is_still_remembered(tmp_path, mark):
    """A mark that would come back with a restart is not forgotten before."""
    state = await loaded(tmp_path)
    state.add(mark)
    file = next(file for file in tmp_path.rglob("*.json"))
    file.unlink()
    file.mkdir()
    with pytest.raises(HostError):
        state.remove(mark)
    assert marks_in(state) == [mark]
    file.rmdir()
    state.remove(mark)
    assert marks_in(state) == []


async def test_a_changed_fact_replaces_the_former(tmp_path):
    """A target has one fact: the newest."""
    state = await loaded(tmp_path)
    state.add(published())
    newer = dataclasses.replace(published(), device="/dev/loop8")
    state.add(newer)
    for answer in (state, await loaded(tmp_path)):
        assert answer.all_published() == [newer]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"schema": 1}', b'{"schema": 9, "path": "/x"}', b"\xff\xfe"],
    ids=["empty", "torn", "list", "null", "incomplete", "newer", "binary"],
)
async def test_one_damaged_fact_hinders_no_other(tmp_path, content):
    """A file that cannot be read is left where it is, and all others are read."""
    (await loaded(tmp_path)).add(published())
    damaged = tmp_path / "published" / "damaged.json"
    damaged.write_bytes(content)
    state = await loaded(tmp_path)
    assert state.all_published() == [published()]
    assert damaged.read_bytes() == content


async def test_foreign_files_are_passed_over(tmp_path):
    """What is no fact by its name is not even opened; a folder with a fact's name is an unreadable one."""
    (await loaded(tmp_path)).add(published())
    (tmp_path / "published" / "README").write_text("hello")
    (tmp_path / "published" / "folder.json").mkdir()
    assert (await loaded(tmp_path)).all_published() == [published()]


async def test_the_folder_may_vanish_meanwhile(tmp_path):
    """A state directory that somebody cleared is made again by the next fact."""
    state = await loaded(tmp_path / "state")
    (tmp_path / "state" / "published").rmdir()
    state.add(published())
    assert (await loaded(tmp_path / "state")).all_published() == [published()]


async def test_a_fact_is_readable_json(tmp_path):
    """A person at night can see which target has which volume."""
    (await loaded(tmp_path)).add(published())
    (file,) = (tmp_path / "published").iterdir()
    content = json.loads(file.read_text())
    assert content["path"] == "/pods/1/mount"
    assert content["volume_id"] == "v1:default:0a1b2c3d:pvc-1"


async def test_a_mark_in_memory_takes_no_host_step(monkeypatch):
    """On tmpfs a mark is written where it is asked for; on a disk, which may hang, in a host step."""
    steps = []

    async def noted(step, *args):
        steps.append(step.__name__)
        return step(*args)

    for folder, wanted in (("/dev/shm", []), ("/var/tmp", ["add", "remove"])):  # what they are
        steps.clear()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            marks = Marks(Path(scratch) / "marks")
            await marks.load()
            with monkeypatch.context() as patched:
                patched.setattr("katacsi.volumes.publish.marks.off_loop", noted)
                item = published()
                await marks.added(item)
                assert marks.published(item.path) == item
                await marks.removed(item)
                assert marks.published(item.path) is None
        assert steps == wanted
