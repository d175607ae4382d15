"""The guard on a target, with real mounts."""

import asyncio
import errno
import stat
import subprocess
from functools import partial

import pytest

from katacsi.directvolume import guard
from katacsi.errors import InvalidRequest, VolumeInUse
from katacsi.host import mounttable

VOLUME = "v1:default:0a1b2c3d:pvc-2ad7b367"
OTHER = "v1:default:0a1b2c3d:pvc-other"


@pytest.fixture
def target(scratch):
    """A target that is not there yet, in a pod's folder; one space, as paths may have."""
    pod = scratch / "pod 1"
    pod.mkdir()
    return pod / "mount"


@pytest.fixture
def tmpfs(target):
    """Mount a tmpfs of somebody else's on the target; taken off in the end."""

    def mounted(source="somebody"):
        target.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", source, target], check=True)

    yield mounted
    while subprocess.run(["umount", target], capture_output=True, check=False).returncode == 0:
        pass


async def test_a_guard_refuses_every_write(target):
    """What would have gone to the node's disk is EROFS, and nothing in it can be run or is a device."""
    guard.ensure_guard(str(target), VOLUME)
    with pytest.raises(OSError, match="Read-only file system") as refusal:
        (target / "data").write_bytes(b"x")
    assert refusal.value.errno == errno.EROFS
    assert stat.S_IMODE(target.stat().st_mode) == 0o555
    (found,) = mounttable.at(target)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(found.options)
    assert (found.fs_type, found.source) == ("tmpfs", f"katacsi:{VOLUME}")
    assert "size=4k" in found.super_options
    assert "ro" in found.super_options  # a remount of the mount point alone does not make it writable
    guard.remove_guard(str(target))


async def test_a_guard_names_its_volume(target):
    """The mount is the proof of whose target this is; without one there is none."""
    assert guard.guard_of(str(target)) is None
    guard.ensure_guard(str(target), VOLUME)
    assert guard.guard_of(str(target)) == VOLUME
    guard.remove_guard(str(target))
    assert guard.guard_of(str(target)) is None


async def test_guards_do_not_stack(target):
    """A repeated publish finds the guard there."""
    for _ in range(3):
        guard.ensure_guard(str(target), VOLUME)
    assert len(mounttable.at(target)) == 1
    guard.remove_guard(str(target))
    assert mounttable.at(target) == []


async def test_removing_twice_is_removing_once(target):
    """No guard, and no target at all, is success; the folder is left for who made it."""
    guard.remove_guard(str(target))
    guard.ensure_guard(str(target), VOLUME)
    guard.remove_guard(str(target))
    guard.remove_guard(str(target))
    assert list(target.iterdir()) == []


async def test_another_volume_s_guard_stands(target):
    """A target belongs to one volume; the other one is named."""
    guard.ensure_guard(str(target), OTHER)
    with pytest.raises(VolumeInUse, match=OTHER):
        guard.ensure_guard(str(target), VOLUME)
    assert guard.guard_of(str(target)) == OTHER
    guard.remove_guard(str(target))


async def test_what_others_mounted_stays(target, tmpfs):
    """Somebody's mount is named, neither covered nor taken away."""
    tmpfs()
    for refused in (
        partial(guard.ensure_guard, str(target), VOLUME),
        partial(guard.remove_guard, str(target)),
    ):
        with pytest.raises(VolumeInUse, match="tmpfs from somebody"):
            refused()
    assert [found.source for found in mounttable.at(target)] == ["somebody"]
    assert guard.guard_of(str(target)) is None


async def test_a_covered_guard_is_not_what_one_sees(target, tmpfs):
    """With somebody's mount on top, writes no longer meet the guard: that is no guarded target."""
    guard.ensure_guard(str(target), VOLUME)
    tmpfs()
    assert guard.guard_of(str(target)) is None
    with pytest.raises(VolumeInUse, match="somebody"):
        guard.ensure_guard(str(target), VOLUME)
    with pytest.raises(VolumeInUse, match="somebody"):
        guard.remove_guard(str(target))
    assert len(mounttable.at(target)) == 2


async def test_a_guard_in_use_says_so(target):
    """A process that stands in the guard keeps it; once it left, removal succeeds."""
    guard.ensure_guard(str(target), VOLUME)
    holder = await asyncio.create_subprocess_exec("sleep", "60", cwd=target)  # noqa: TID251 -- a tenant, no tool
    try:
        with pytest.raises(VolumeInUse):
            guard.remove_guard(str(target))
        assert guard.guard_of(str(target)) == VOLUME
    finally:
        holder.kill()
        await holder.wait()
    guard.remove_guard(str(target))


async def test_a_symlink_is_no_target(target):
    """containerd resolves a symlinked last component, so Kata would miss the record."""
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    target.symlink_to(elsewhere)
    with pytest.raises(InvalidRequest):
        guard.ensure_guard(str(target), VOLUME)
    assert mounttable.at(elsewhere) == []


async def test_no_other_driver_s_tmpfs_is_a_guard(target, tmpfs):
    """Only a tmpfs whose source begins with our word is one."""
    tmpfs("not-katacsi:v1")
    assert guard.guard_of(str(target)) is None
