"""Giving a volume to a group, as the kubelet does."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from katacsi.errors import HostError
from katacsi.host import mkfs, ownership
from support import blockdevices
from support.blockdevices import MIB

GID = 12345


def facts(path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_gid, stat.S_IMODE(found.st_mode)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def root(scratch):
    root = scratch / "volume"
    root.mkdir(mode=0o755)
    return root


def test_files_and_directories_get_the_group(root):
    """Files become readable and writable by the group, directories enterable and inheriting, too."""
    (root / "inner").mkdir(mode=0o700)
    (root / "inner" / "file").write_text("")
    (root / "inner" / "file").chmod(0o600)
    (root / "program").write_text("")
    (root / "program").chmod(0o711)
    assert ownership.apply_group(root, GID, "Always")
    assert facts(root) == (GID, 0o2775)
    assert facts(root / "inner") == (GID, 0o2770)
    assert facts(root / "inner" / "file") == (GID, 0o660)
    assert facts(root / "program") == (GID, 0o771)


def test_owner_and_other_bits_stay(root):
    """The user id of a file stays, and so do sticky and set-id bits, which a change of group clears."""
    for name, mode in (("suid", 0o4755), ("ready", 0o4775), ("sgid", 0o2755), ("open", 0o666)):
        (root / name).write_text("")
        os.chown(root / name, 4711, 0)
        (root / name).chmod(mode)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    ownership.apply_group(root, GID, "Always")
    assert (root / "suid").stat().st_uid == 4711
    assert facts(root / "suid") == (GID, 0o4775)
    assert facts(root / "ready") == (GID, 0o4775)
    assert facts(root / "sgid") == (GID, 0o2775)
    assert facts(root / "open") == (GID, 0o666)
    assert facts(root / "tmp") == (GID, 0o3777)


def test_links_are_never_followed(root, scratch):
    """A symbolic link changes its own group; what it points to, outside or inside, is left alone."""
    outside = scratch / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("")
    (outside / "file").chmod(0o600)
    for name, target in (
        ("file", outside / "file"),
        ("directory", outside),
        ("loop", "."),
        ("dangling", "none"),
    ):
        (root / name).symlink_to(target)
    ownership.apply_group(root, GID, "Always")
    assert facts(outside) == (0, 0o700)
    assert facts(outside / "file") == (0, 0o600)
    assert {link.lstat().st_gid for link in root.iterdir()} == {GID}


def test_special_files_are_changed_without_being_opened(root):
    """A pipe or device in a volume neither blocks us nor is opened."""
    os.mkfifo(root / "pipe", 0o600)
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket"))
        (root / "socket").chmod(0o600)
        ownership.apply_group(root, GID, "Always")
    assert {facts(entry) for entry in root.iterdir()} == {(GID, 0o660)}


def test_other_filesystems_are_not_entered(root):
    """What is mounted below a volume is not part of it."""
    (root / "below").mkdir()
    blockdevices.run("mount", "-t", "tmpfs", "-o", "mode=0700", "none", root / "below")
    try:
        (root / "below" / "file").write_text("")
        ownership.apply_group(root, GID, "Always")
        assert facts(root / "below") == (0, 0o700)
        assert facts(root / "below" / "file")[0] == 0
    finally:
        blockdevices.run("umount", root / "below")


async def test_subvolumes_are_entered(scratch):
    """The subvolumes of a btrfs belong to the volume, although they have device numbers of their own."""
    blockdevices.need("mkfs.btrfs", "btrfs")
    file = blockdevices.sparse_file(scratch / "image", 128 * MIB)
    with blockdevices.loop_device(file) as device:
        mkfs.make(device, "btrfs", str(uuid.uuid4()))
        with blockdevices.mounted(device, scratch / "mount") as root:
            blockdevices.run("btrfs", "subvolume", "create", root / "sub")
            (root / "sub" / "file").write_text("")
            ownership.apply_group(root, GID, "Always")
            assert (root / "sub" / "file").stat().st_gid == GID


def test_a_matching_root_ends_it(root):
    """With OnRootMismatch a tree whose root looks right is not walked; with Always it is."""
    ownership.apply_group(root, GID, "OnRootMismatch")
    (root / "late").write_text("")
    os.chown(root / "late", 0, 0)
    assert not ownership.apply_group(root, GID, "OnRootMismatch")
    assert facts(root / "late")[0] == 0
    assert ownership.apply_group(root, GID, "Always")
    assert facts(root / "late")[0] == GID


@pytest.mark.parametrize(("gid", "mode"), [(0, 0o2775), (GID, 0o775), (GID, 0o2755), (GID, 0o2765)])
def test_a_root_that_does_not_match_starts_it(root, gid, mode):
    """Another group, or one missing bit of the root, and everything is changed."""
    (root / "file").write_text("")
    os.chown(root, 0, gid)
    root.chmod(mode)
    assert ownership.apply_group(root, GID, "OnRootMismatch")
    assert facts(root / "file")[0] == GID


def test_the_root_comes_last(root, monkeypatch):
    """A run that breaks off leaves the root as it was, so the next one does not take it for done."""
    for number in range(5):
        (root / f"directory{number}").mkdir()
    chown = os.chown
    calls = []

    def failing(path, *arguments, **options):
        calls.append(path)
        if len(calls) == 4:
            raise OSError(30, "Read-only file system", path)
        return chown(path, *arguments, **options)

    monkeypatch.setattr(os, "chown", failing)
    with pytest.raises(HostError, match="Read-only file system"):
        ownership.apply_group(root, GID, "OnRootMismatch")
    assert facts(root) == (0, 0o755)
    monkeypatch.undo()
    assert ownership.apply_group(root, GID, "OnRootMismatch")


def test_none_changes_nothing(root):
    """The policy None leaves even the root alone."""
    assert not ownership.apply_group(root, GID, "None")
    assert facts(root) == (0, 0o755)


def test_deep_trees_are_no_problem(root):
    """A tree deeper than Python's stack, with paths longer than the kernel takes, is walked to its end."""
    depth = 400
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("x" * 20, dir_fd=descriptor)
        inner = os.open("x" * 20, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    try:
        before = open_descriptors()
        ownership.apply_group(root, GID, "Always")
        assert open_descriptors() == before
        assert os.fstat(descriptor).st_gid == GID
    finally:
        os.close(descriptor)


def test_a_missing_volume_is_an_error(scratch):
    """A root that is not there, or no directory, is reported with its path."""
    (scratch / "file").write_text("")
    for name in ("missing", "file"):
        with pytest.raises(HostError, match=name):
            ownership.apply_group(scratch / name, GID, "Always")


@pytest.fixture
def immutable(scratch):
    """A tree with a file and a directory that even root cannot change."""
    root = scratch / "tree"
    stuck = [root / "a" / "stuck", root / "b"]
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    for file in (root / "a" / "stuck", root / "a" / "free", root / "b" / "inner", root / "z"):
        file.write_text("x")
    for path in stuck:
        subprocess.run(["chattr", "+i", path], check=True)
    yield root
    for path in stuck:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.gate("one-stubborn-file-fails-nothing")
def test_a_file_that_resists_fails_nothing_and_leaks_nothing(immutable):
    """All other files get the group, and no descriptor stays open in the volume."""
    before = open_descriptors()
    assert ownership.apply_group(immutable, GID, "Always")
    changed = {path.name for path in immutable.rglob("*") if path.lstat().st_gid == GID}
    assert changed == {"a", "free", "inner", "z"}
    assert immutable.stat().st_gid == GID
    assert open_descriptors() == before


def test_a_walk_that_fails_leaks_nothing(scratch, monkeypatch):
    """What concerns the whole volume ends the walk, and every descriptor is closed."""
    (scratch / "a" / "b").mkdir(parents=True)
    for number in range(50):
        (scratch / "a" / "b" / str(number)).write_text("x")
    before = open_descriptors()

    def fails(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(ownership.os, "chown", fails)
    with pytest.raises(HostError, match="Read-only") as kept:  # with its traceback, which holds the frames
        ownership.apply_group(scratch, GID, "Always")
    assert open_descriptors() == before
    assert kept.tb is not None
