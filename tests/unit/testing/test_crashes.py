"""The runner for authors kills at each step, before it and after it, and says where."""

import os

import pytest

from katacsi.host import files
from katacsi.host.offloop import off_loop
from katacsi.testing.crashes import CallFailed, at_every_step
from katacsi.testing.syncing import failing_syncs, watching_writes


class Folder:
    """What stands for a pool: a folder in which calls make things."""

    def __init__(self, path):
        self.path = path
        self.backend = self

    async def start(self):
        pass

    async def close(self):
        pass


async def two_folders(pool):
    await off_loop(os.mkdir, pool.path / "first")
    await off_loop(os.mkdir, pool.path / "second")


async def test_it_dies_before_and_after_each_step(tmp_path):
    """Two steps are four deaths, and what each leaves is what a kill there leaves."""
    seen = []

    async def check(pool):
        seen.append(sorted(path.name for path in pool.path.iterdir()))
        for path in pool.path.iterdir():
            path.rmdir()

    assert await at_every_step(lambda: Folder(tmp_path), act=two_folders, check=check) == 4
    assert seen == [[], ["first"], ["first"], ["first", "second"], ["first", "second"]]


async def test_it_says_where_it_died(tmp_path):
    """An error of the check names the step after which it was made."""

    async def check(pool):
        assert not list(pool.path.iterdir())

    with pytest.raises(AssertionError) as caught:
        await at_every_step(lambda: Folder(tmp_path), act=two_folders, check=check)
    assert "killed after mkdir" in "".join(caught.value.__notes__)


async def test_a_call_that_fails_by_itself_is_told(tmp_path):
    """A call that fails without a kill is no proof of anything: its own words are shown."""

    async def act(pool):
        raise ValueError("broken by itself")

    with pytest.raises(CallFailed, match="broken by itself"):
        await at_every_step(lambda: Folder(tmp_path), act=act, check=two_folders)


def test_the_writes_of_our_own_host_are_seen(tmp_path):
    """What `katacsi.host` writes is watched as any other: synced it is clean, not synced it is named."""
    with watching_writes() as watch:
        files.write_atomically(tmp_path / "record", b"1")
    assert watch.wrote
    assert watch.unsynced() == []
    with watching_writes() as watch:
        files.write_atomically(tmp_path / "record", b"2", durable=False)
    record = tmp_path / "record"
    assert watch.unsynced() == [f"the content of {record}", f"the name {record}"]


def test_plain_files_are_seen(tmp_path):
    """What Python's own files write is watched, too, through `open` and through `Path`."""
    with watching_writes() as watch, open(tmp_path / "a", "w") as file:  # noqa: PTH123 -- itself
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    assert watch.unsynced() == [f"the name {tmp_path / 'a'}"]
    with watching_writes() as watch:
        (tmp_path / "b").write_text("x")
    assert len(watch.unsynced()) == 2


def test_every_sync_can_fail(tmp_path):
    """With syncs failing, what waits for one raises, and it is counted."""
    with failing_syncs() as failing, pytest.raises(Exception, match="Input/output error"):
        files.write_atomically(tmp_path / "record", b"1")
    assert failing.count == 1
