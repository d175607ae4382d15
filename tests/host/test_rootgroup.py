"""Giving the root directory of real, unmounted filesystems to a group."""

from __future__ import annotations

import os
import stat
import subprocess
import uuid

import pytest

from katacsi.errors import Unsupported
from katacsi.host import mkfs, superblock
from katacsi.host.rootgroup import ensure_root_group
from support import blockdevices
from support.blockdevices import MIB

GROUP = 70_000  # more than 16 bits, which ext4 keeps in two fields

both = pytest.mark.parametrize("fs_type", ["ext4", "xfs"])


@pytest.fixture
async def device(scratch, fs_type):
    blockdevices.need(f"mkfs.{fs_type}")
    with blockdevices.loop_device(blockdevices.sparse_file(scratch / "image", 304 * MIB)) as device:
        mkfs.make(device, fs_type, str(uuid.uuid4()), zeroed=True)
        yield device


def seen(device, scratch):
    """What a guest sees: the root's group and mode."""
    with blockdevices.mounted(device, scratch / "mount") as root:
        facts = root.stat()
        return facts.st_gid, oct(stat.S_IMODE(facts.st_mode))


def copy(device, to):
    """Copy what is on a device now, as a power cut leaves it."""
    subprocess.run(["cp", "--sparse=always", device, to], check=True)


def check(device, fs_type):
    """Whether the filesystem's own checker finds nothing."""
    argv = ["e2fsck", "-fn", device] if fs_type == "ext4" else ["xfs_repair", "-n", device]
    subprocess.run(argv, check=True, capture_output=True)


@both
@pytest.mark.parametrize("policy", ["OnRootMismatch", "Always"])
async def test_an_empty_filesystem_belongs_to_the_group(device, fs_type, scratch, policy):
    """New files inherit the group; the filesystem stays sound, and a second call changes nothing."""
    assert ensure_root_group(device, GROUP, policy)
    assert not ensure_root_group(device, GROUP, policy)
    check(device, fs_type)
    assert seen(device, scratch) == (GROUP, "0o2775")


@both
async def test_a_tree_that_somebody_has_to_walk_still_looks_wrong(device, fs_type, scratch):
    """The runtime that walks trees takes a root with the set-group-id bit for one that was walked."""
    with blockdevices.mounted(device, scratch / "mount") as root:
        for number in range(300):
            (root / f"file-{number}").touch()
        os.chown(root, -1, 5)
        root.chmod(0o2755)
    assert ensure_root_group(device, GROUP, "OnRootMismatch")
    assert not ensure_root_group(device, GROUP, "OnRootMismatch")
    check(device, fs_type)
    assert seen(device, scratch) == (GROUP, "0o775")
    assert ensure_root_group(device, GROUP, "Always")
    assert seen(device, scratch) == (GROUP, "0o2775")


@both
async def test_one_file_is_not_empty(device, fs_type, scratch):
    """Also a single file with an odd name makes a tree."""
    with blockdevices.mounted(device, scratch / "mount") as root:
        (root / "a\nb").touch()
    assert ensure_root_group(device, GROUP, "OnRootMismatch")
    assert seen(device, scratch) == (GROUP, "0o775")


@both
async def test_none_leaves_it_alone(device, fs_type, scratch):
    """The policy of those who own their files themselves."""
    assert not ensure_root_group(device, GROUP, "None")
    assert seen(device, scratch) == (0, "0o755")


@both
async def test_after_a_power_cut(device, fs_type, scratch):
    """An ext4 journal is replayed first, so that it does not undo the change; an xfs log only a guest can."""
    with blockdevices.mounted(device, scratch / "mount") as root:
        (root / "file").write_text("kept")
        os.sync()
        copy(device, scratch / "cut")
    with blockdevices.loop_device(scratch / "cut") as cut:
        if fs_type == "ext4":
            assert not superblock.read(cut).clean
            assert ensure_root_group(cut, GROUP, "OnRootMismatch")
            assert superblock.read(cut).clean
            check(cut, fs_type)
            assert seen(cut, scratch) == (GROUP, "0o775")
        else:
            with pytest.raises(Unsupported, match="mounted and unmounted"):
                ensure_root_group(cut, GROUP, "OnRootMismatch")


@pytest.mark.parametrize("fs_type", ["btrfs"])
async def test_other_filesystems_are_refused(device):
    """No direct volume has them."""
    with pytest.raises(Unsupported, match="btrfs"):
        ensure_root_group(device, GROUP, "Always")
