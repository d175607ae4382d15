"""A pool is recognised, or refused; it is never mistaken and never made anew."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from katacsi.errors import PoolNotSetUp, PoolUnavailable, Precondition
from katacsi.host import _linux
from katacsi.model import SnapshotId


async def test_an_identity_is_made_once(opened, folder):
    """The first start gives the pool its uid, every later one finds it."""
    first = await opened()
    await first.close()
    assert (await opened()).pool_uid == first.pool_uid
    assert json.loads((folder / "pool.json").read_text())["uid"] == first.pool_uid


async def test_strangers_files_are_left_alone(opened, folder, request_for):
    """Files that katacsi did not make stay, are not listed, and keep nothing from working."""
    strangers = [folder / "lost+found" / "x", folder / "volumes" / "README", folder / "volumes" / "A.b" / "c"]
    strangers += [folder / "volumes" / "notes" / "d", folder / "snapshots" / ".creating-x" / "e"]
    for stranger in strangers:
        stranger.parent.mkdir(parents=True, exist_ok=True)
        stranger.write_text("not katacsi's")
    (folder / "volumes" / "notes" / "d").unlink()
    (folder / "volumes" / "notes").rmdir()
    backend = await opened()
    (folder / "volumes" / "notes").mkdir()
    await backend.create(request_for("a"))
    assert [volume.csi_name for volume in (await backend.list("", 0)).items] == ["a"]
    assert all(stranger.read_text() == "not katacsi's" for stranger in strangers if stranger.exists())
    assert sum(stranger.exists() for stranger in strangers) == 4


async def test_volumes_without_an_identity_are_not_adopted(opened, folder, request_for):
    """A pool that lost its pool.json gets no new identity, which would disown its volumes."""
    backend = await opened()
    await backend.create(request_for("a"))
    await backend.close()
    (folder / "pool.json").unlink()
    with pytest.raises(PoolUnavailable, match="restore that file"):
        await opened()
    assert not (folder / "pool.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 1}', "damaged"),
        ('{"schema": 1, "uid": "../x"}', "8 hex digits"),
        ('{"schema": 2, "uid": "01234567"}', "newer katacsi"),
    ],
)
async def test_a_damaged_identity_is_refused(opened, folder, content, words):
    """An identity that cannot be read stops the start, and stays as it is."""
    (folder / "pool.json").write_text(content)
    with pytest.raises(PoolUnavailable, match=words):
        await opened()
    assert (folder / "pool.json").read_text() == content


async def test_a_folder_has_to_exist(opened, folder):
    """A folder that is not there is not made: a disk was to be there."""
    folder.rmdir()
    with pytest.raises(PoolUnavailable, match="not an existing folder"):
        await opened()
    assert not folder.exists()


async def test_a_folder_that_is_no_mount_point_is_refused_on_demand(opened, folder):
    """With require_mount, a disk that is not mounted is not mistaken for an empty pool."""
    with pytest.raises(PoolUnavailable, match="not a mount point"):
        await opened(require_mount=True)
    assert list(folder.iterdir()) == []


async def test_two_processes_do_not_serve_one_pool(opened, folder):
    """The second start waits a moment and gives up, naming the lock; after the first one ends it succeeds."""
    first = await opened()
    with pytest.raises(PoolUnavailable, match=r"another katacsi.*\.lock"):
        await opened()
    await first.close()
    await opened()


async def test_a_lock_that_cannot_be_made_is_not_somebody_elses(opened, folder):
    """The remedy would be the wrong one: there is no other katacsi to stop."""
    (folder / ".lock").mkdir()
    with pytest.raises(PoolUnavailable, match=r"cannot be locked: lock .*\.lock: Is a directory"):
        await opened()


async def test_a_view_takes_no_lock_and_changes_nothing(opened, folder, request_for):
    """A read-only pool can be opened beside the one that serves, and writes nothing at all."""
    with pytest.raises(PoolNotSetUp, match="holds no pool"):
        await opened(read_only=True)
    assert list(folder.iterdir()) == []
    backend = await opened(quota="64Mi")
    volume = await backend.create(request_for("a"))
    (folder / "volumes" / ".creating-b").mkdir()
    before = sorted(folder.rglob("*"))
    view = await opened(read_only=True, quota="64Mi")
    assert await view.get(volume.id) == volume
    assert await view.capacity({}) == await backend.capacity({})
    with pytest.raises(Precondition, match="viewing"):
        await view.create(request_for("b"))
    assert sorted(folder.rglob("*")) == before
    await backend.close()
    await opened()


async def test_a_view_tells_a_new_pool_from_one_that_lost_its_identity(opened, folder):
    """Volumes without an identity are no pool that was never used: setting it up would disown them."""
    (folder / "volumes" / "pvc-1").mkdir(parents=True)
    with pytest.raises(PoolUnavailable, match="restore that file") as caught:
        await opened(read_only=True)
    assert not isinstance(caught.value, PoolNotSetUp)


@pytest.mark.parametrize("lost", ["pool.json", "volumes", "."])
async def test_nothing_is_absent_from_a_pool_that_went_away(opened, folder, request_for, lost):
    """With the pool's identity or folders gone, no volume is said to be absent, and none is made."""
    backend = await opened()
    volume = await backend.create(request_for("a"))
    (folder / lost).resolve().rename(folder.parent / "elsewhere")
    if lost == ".":
        folder.mkdir()
    for call in (
        backend.get(replace(volume.id, name="b")),
        backend.find("b"),
        backend.delete(replace(volume.id, name="b")),
        backend.create(request_for("b")),
        backend.get_snapshot(SnapshotId("pool", backend.pool_uid, "b")),
    ):
        with pytest.raises(PoolUnavailable):
            await call


async def test_another_pool_in_the_same_place_is_noticed(opened, folder, request_for):
    """Another disk, mounted over the pool while katacsi runs, does not answer for it."""
    backend = await opened()
    (folder / "pool.json").write_text('{"schema": 1, "uid": "00000000"}')
    with pytest.raises(PoolUnavailable, match="holds pool 00000000 now"):
        await backend.find("a")


async def test_what_gets_its_name_is_durable(opened, folder, request_for, monkeypatch):
    """Disk, record and the names of both are on the disk before a volume has its name, which then follows."""
    backend = await opened()
    steps = []
    fsync, rename = os.fsync, _linux.rename_noreplace

    def noted_fsync(fd):
        steps.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    def noted_rename(source, target):
        steps.append("named")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(_linux, "rename_noreplace", noted_rename)
    volume = await backend.create(request_for("a"))
    building = folder / "volumes" / f".creating-{volume.id.name}"
    assert set(steps[:2]) == {building / "disk.img", building / "volume.json"}
    assert steps[2:] == [building, "named", folder / "volumes"]
