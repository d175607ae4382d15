"""Removal in a full pool: killed at any step, it is finished by the next start and the repeated call."""

import errno
import os

import pytest

from katacsi.host import _linux
from katacsi.model import MIB


class Killed(BaseException):
    """The end of the process, as far as a step can tell."""


class FullPool:
    """A filesystem without room for names, in which the process is killed before or after the n-th step."""

    def __init__(self, monkeypatch, has_room):
        self._has_room = has_room
        self._patch = monkeypatch
        self._left = -1
        self._after = False
        monkeypatch.setattr(_linux, "rename_noreplace", self._step(self._rename(_linux.rename_noreplace)))
        monkeypatch.setattr(os, "unlink", self._step(os.unlink))
        monkeypatch.setattr(os, "rmdir", self._step(os.rmdir))

    def kill(self, number, *, after):
        """Kill the process at this step; 0: never."""
        self._left, self._after = number, after

    def _rename(self, real):
        def rename(source, target):
            if not self._has_room(source, target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(source, target)

        return rename

    def _step(self, real):
        def step(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            try:
                real(*args, **kwargs)
            finally:
                if self._left == 0:
                    raise Killed

        return step


def in_the_same_folder(source, target):
    """As XFS has it: a name that is no longer, in a small folder, fits."""
    return source.parent == target.parent and len(target.name) <= len(source.name)


def never(source, target):
    """As XFS with parent pointers has it, as long as nothing was freed."""
    return (
        not (source.parent / source.name / "disk.img").exists() and not (source.parent / "disk.img").exists()
    )


def once_freed(source, target):
    """A name has room when the bytes are gone."""
    return in_the_same_folder(source, target) or never(source, target)


@pytest.mark.parametrize("has_room", [in_the_same_folder, never, once_freed])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_removal_without_room_is_finished(opened, folder, request_for, has_room, after):
    """Nothing of the volume is left, the name is free, and other volumes are as they were."""
    pool = await opened()
    other = await pool.create(request_for("other"))
    await pool.close()
    number = 0
    while True:
        number += 1
        pool = await opened()
        volume = await pool.create(request_for("a", 2 * MIB))
        with pytest.MonkeyPatch.context() as patch:
            full = FullPool(patch, has_room)
            full.kill(number, after=after)
            try:
                await pool.delete(volume.id)
                survived = True
            except Killed:
                survived = False
            full.kill(0, after=False)
            await pool.close()
            pool = await opened()
            await pool.delete(volume.id)
            assert await pool.get(volume.id) is None
            left = [path for path in (folder / "volumes").rglob("*") if "other" not in str(path)]
            assert [path.name for path in left if path.is_file()] in ([], [".gone"])
            await pool.close()
        # With room for names again, nothing of it is left.
        pool = await opened()
        assert [entry.name for entry in (folder / "volumes").iterdir()] == ["other"]
        assert await pool.get(other.id) == other
        await pool.close()
        if survived:
            break
    assert number > 3, "the steps were not met"


async def test_a_name_is_free_at_once(opened, request_for, monkeypatch):
    """What is left of a removed volume in its folder is in nobody's way."""
    pool = await opened()
    volume = await pool.create(request_for("a"))
    with monkeypatch.context() as patch:
        FullPool(patch, in_the_same_folder).kill(3, after=True)  # its record is called otherwise by then
        with pytest.raises(Killed):
            await pool.delete(volume.id)
    assert await pool.get(volume.id) is None
    assert (await pool.list("", 0)).items == ()
    again = await pool.create(request_for("a", 2 * MIB))
    assert await pool.get(again.id) == again
