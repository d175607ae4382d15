"""Publishing by a host mount: for pods that do not run in Kata."""

import os
import stat

import pytest

from katacsi.errors import AlreadyExists, HostError, InvalidRequest, Precondition, VolumeInUse
from katacsi.host import mount, mounttable
from katacsi.model import AccessMode
from support import blockdevices
from support.node import MIB, mounts_at


def options_at(path):
    """Give the options of the mount that one sees at a path."""
    return mounttable.at(path)[-1].options


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_a_pod_reads_and_writes_its_volume(node, volume, fs_type):
    """A host volume is staged, published, written and found again after a restart of the driver."""
    pvc = volume(fs_type=fs_type)
    await pvc.create()
    await pvc.stage()
    assert mounts_at(pvc.staging) == 0
    await pvc.publish()
    assert (mounts_at(pvc.staging), mounts_at(pvc.target)) == (1, 1)
    assert mounttable.at(pvc.target)[0].fs_type == fs_type
    pvc.write()
    await node.restart()
    await pvc.stage()
    await pvc.publish()
    assert (mounts_at(pvc.staging), mounts_at(pvc.target)) == (1, 1)
    await pvc.unpublish()
    assert not pvc.target.exists()
    await pvc.stage()
    await pvc.publish()
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    await pvc.down()
    assert node.devices == []
    assert mounts_at(pvc.staging) == 0
    assert list(node.records.glob("*")) == []


@pytest.mark.gate("retries-stack-no-mounts")
async def test_publish_twice_leaves_one_mount(node, volume):
    """A repeated NodeStage and NodePublish succeed and do not stack mounts, in one process or the next."""
    pvc = volume()
    await pvc.up()
    for _ in range(2):
        await pvc.stage()
        await pvc.publish()
        await node.restart()
    assert (mounts_at(pvc.staging), mounts_at(pvc.target)) == (1, 1)
    await pvc.down()


@pytest.mark.gate("retries-stack-no-mounts")
async def test_a_publish_that_was_cut_off_is_continued(node, volume):
    """After a crash between the steps of a publish the retry finds what is there and adds the rest."""
    pvc = volume()
    await pvc.up(read_only=True)
    mount.unmount(pvc.target)
    await node.restart()
    await pvc.publish(read_only=True)
    assert (mounts_at(pvc.staging), mounts_at(pvc.target)) == (1, 1)
    mount.remount_bind(pvc.target, read_only=False)
    await pvc.publish(read_only=True)
    assert "ro" in options_at(pvc.target)
    mount.unmount(pvc.target)
    mount.unmount(pvc.staging)
    await pvc.publish(read_only=True)
    assert (mounts_at(pvc.staging), mounts_at(pvc.target)) == (1, 1)
    await pvc.down()


async def test_a_read_only_pod_cannot_write(volume):
    """A read-only publish is a read-only bind; another pod of the node may write meanwhile."""
    pvc = volume()
    await pvc.up()
    reader = await pvc.publish(pvc.node.pods / "reader" / "mount", read_only=True)
    pvc.write()
    assert (reader / "data").read_bytes() == b"the workload's bytes"
    with pytest.raises(OSError, match="Read-only"):
        (reader / "x").touch()
    await pvc.unpublish(reader)
    pvc.write("more")
    await pvc.down()


async def test_a_reader_only_mode_is_read_only(volume):
    """SINGLE_NODE_READER_ONLY means read-only, also where the request does not say so again."""
    pvc = volume(mode=AccessMode.SINGLE_NODE_READER_ONLY)
    await pvc.up()
    with pytest.raises(OSError, match="Read-only"):
        (pvc.target / "x").touch()
    await pvc.down()


async def test_mount_flags_are_honoured(volume):
    """Flags reach the filesystem's mount and the pod's bind."""
    pvc = volume(mount_flags=("noatime", "nodev", "discard"))
    await pvc.up()
    (staged,) = mounttable.at(pvc.staging)
    assert {"noatime", "nodev"} <= set(staged.options)
    assert "discard" in staged.super_options
    assert {"noatime", "nodev"} <= set(options_at(pvc.target))
    await pvc.down()


async def test_an_impossible_mount_flag_leaves_nothing(node, volume):
    """A value that the filesystem does not take fails the publish, which takes back what it did."""
    pvc = volume(mount_flags=("commit=often",))
    await pvc.create()
    await pvc.stage()
    with pytest.raises(HostError):
        await pvc.publish()
    assert not pvc.target.exists()
    assert mounts_at(pvc.staging) == 0
    assert node.driver.context.marks.targets_of(pvc.id) == []
    await pvc.unpublish()
    await pvc.unstage()


@pytest.mark.parametrize("policy", ["OnRootMismatch", "Always", "None"])
async def test_the_pod_s_group_by_its_policy(volume, policy):
    """A publish gives the files to the pod's group: once, at each publish, or never."""
    pvc = volume(mount_group="4711", parameters={"katacsi.io/fs-group-change-policy": policy})
    await pvc.up()
    root = pvc.target.stat()
    ours = policy != "None"
    assert (root.st_gid == 4711) is ours
    assert bool(root.st_mode & stat.S_ISGID) is ours
    assert (root.st_mode & 0o070 == 0o070) is ours
    pvc.write()
    os.chown(pvc.target / "data", 0, 0)
    await pvc.unpublish()
    await pvc.publish()
    assert ((pvc.target / "data").stat().st_gid == 4711) is (policy == "Always")
    await pvc.down()


async def test_the_group_of_the_publish_counts(volume):
    """Each pod's own group is applied, not the one that was there at stage; read-only pods change nothing."""
    pvc = volume(mount_group="4711")
    await pvc.create()
    await pvc.stage()
    await pvc.publish(capability=pvc.capability(mount_group="4712"))
    assert pvc.target.stat().st_gid == 4712
    await pvc.unpublish()
    await pvc.publish(capability=pvc.capability(mount_group="4713"), read_only=True)
    assert pvc.target.stat().st_gid == 4712
    await pvc.unpublish()
    await pvc.publish(capability=pvc.capability(mount_group=""))
    assert pvc.target.stat().st_gid == 4712
    await pvc.down()


async def test_two_pods_of_a_node_share_a_volume(node, volume):
    """ReadWriteOnce is one node, not one pod: both see the same files, and each goes by itself."""
    pvc = volume()
    first = await pvc.up()
    second = await pvc.publish(node.pods / "second" / "mount")
    pvc.write()
    assert (second / "data").read_bytes() == b"the workload's bytes"
    assert mounts_at(pvc.staging) == 1
    with pytest.raises(VolumeInUse, match="is published at"):
        await pvc.unstage()
    await pvc.unpublish(first)
    assert (second / "data").exists()
    with pytest.raises(VolumeInUse):
        await pvc.unstage()
    await pvc.unpublish(second)
    await pvc.unstage()


async def test_one_pod_only_means_one(node, volume):
    """ReadWriteOncePod has one target: a second is refused by the path of the first."""
    pvc = volume(mode=AccessMode.SINGLE_NODE_SINGLE_WRITER)
    await pvc.up()
    with pytest.raises(VolumeInUse, match=str(pvc.target)):
        await pvc.publish(node.pods / "second" / "mount")
    assert not (node.pods / "second" / "mount").exists()
    await pvc.unpublish()
    second = await pvc.publish(node.pods / "second" / "mount")
    await pvc.unpublish(second)
    await pvc.unstage()


@pytest.mark.parametrize(
    "other",
    [
        {"read_only": True},
        {"mount_flags": ("noatime",)},
        {"access_mode": AccessMode.SINGLE_NODE_WRITER},
        {"mount_group": "1"},
    ],
    ids=["read-only", "flags", "mode", "group"],
)
async def test_the_same_target_in_another_way(volume, other):
    """A target that is published is not silently something else: the caller is told."""
    pvc = volume()
    await pvc.up()
    read_only = other.pop("read_only", False)
    with pytest.raises(AlreadyExists, match="published there"):
        await pvc.publish(capability=pvc.capability(**other), read_only=read_only)
    assert "rw" in options_at(pvc.target)
    await pvc.publish()
    await pvc.down()


async def test_a_publish_without_a_stage(node, volume):
    """A volume that is not staged, or staged elsewhere, is not published."""
    pvc = volume()
    await pvc.create()
    with pytest.raises(Precondition, match="NodeStageVolume"):
        await pvc.publish()
    await pvc.stage()
    with pytest.raises(Precondition, match="NodeStageVolume"):
        await pvc.publish(staging_path=str(node.staging / "elsewhere"))
    assert not pvc.target.exists()
    await pvc.unstage()


async def test_a_second_staging_path_is_refused(node, volume):
    """One device is staged at one path."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    with pytest.raises(VolumeInUse, match=str(pvc.staging)):
        await pvc.stage(staging_path=str(node.staging / "elsewhere"))
    await pvc.unstage()


@pytest.mark.parametrize(
    "name", ["with space", "ünïcode 漢字", "tab\tand\nnewline", "back\\slash", "quote'\"$(x)", "-dash"]
)
async def test_a_target_path_of_any_name(node, volume, name):
    """Spaces, UTF-8 and the shell's characters are parts of names, as everywhere in Linux."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    target = await pvc.publish(node.pods / name / "mount")
    await pvc.publish(target)
    (target / "data").write_bytes(b"x")
    assert len(mounttable.at(target)) == 1
    await pvc.stats(target)
    await node.restart()
    await pvc.unpublish(target)
    assert not target.exists()
    await pvc.unstage()


async def test_a_symlinked_target_is_refused(node, volume, scratch):
    """Nothing is ever mounted through a link that somebody laid at the target."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    victim = scratch / "victim"
    victim.mkdir()
    link = node.pods / "link"
    link.symlink_to(victim)
    with pytest.raises(InvalidRequest):
        await pvc.publish(link)
    assert link.is_symlink()
    assert mounts_at(victim) == 0
    assert mounts_at(pvc.staging) == 0
    await pvc.unstage()


async def test_what_a_link_at_the_target_leads_to_stays_mounted(node, volume, scratch):
    """An unpublish of a link does not unmount what lies behind it, and leaves the link to its maker."""
    pvc = volume()
    await pvc.create()
    victim = scratch / "victim"
    victim.mkdir()
    blockdevices.run("mount", "-t", "tmpfs", "victim", str(victim))
    link = node.pods / "link"
    link.symlink_to(victim)
    with pytest.raises(HostError):
        await pvc.unpublish(link)
    assert mounts_at(victim) == 1
    assert link.is_symlink()
    blockdevices.run("umount", str(victim))


async def test_a_target_that_is_a_file_is_refused(node, volume):
    """A filesystem is mounted on a directory; the file is left."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    pvc.target.parent.mkdir()
    pvc.target.write_text("somebody's")
    with pytest.raises(InvalidRequest, match="not a directory"):
        await pvc.publish()
    assert pvc.target.read_text() == "somebody's"
    await pvc.unstage()


@pytest.mark.parametrize("path", ["relative/mount", "/a/../b", "/"])
async def test_a_target_that_could_be_elsewhere_is_refused(volume, path):
    """Relative and climbing paths are no targets, for any of the node's calls."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    for call in (
        pvc.publish(target_path=path),
        pvc.stage(staging_path=path),
        pvc.node.driver.unpublishing.unpublish(pvc.id, path),
        pvc.node.driver.staging.unstage(pvc.id, path),
    ):
        with pytest.raises(InvalidRequest):
            await call
    await pvc.unstage()


async def test_somebody_else_s_mount_is_not_covered(node, volume):
    """What is mounted at the target or the staging path already is left alone, and named."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    for place in (pvc.target, pvc.staging):
        place.mkdir(parents=True, exist_ok=True)
        blockdevices.run("mount", "-t", "tmpfs", "somebody", str(place))
        with pytest.raises(VolumeInUse, match="somebody is mounted there"):
            await pvc.publish()
        assert mounts_at(place) == 1
        if place == pvc.staging:
            with pytest.raises(VolumeInUse, match="somebody"):
                await pvc.unstage()
            assert mounts_at(place) == 1
        blockdevices.run("umount", str(place))
    await pvc.publish()
    await pvc.down()


@pytest.mark.gate("volume-smaller-than-its-device-grows-at-publish")
@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_a_larger_device_is_filled_when_it_is_mounted(volume, fs_type):
    """A filesystem that is smaller than its device grows before its pod sees it."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    before = os.statvfs(pvc.target)
    await pvc.down()
    os.truncate(pvc.disk, pvc.size + 160 * MIB)  # a btrfs below 256 MiB is not resized by its kernel
    await pvc.stage()
    await pvc.publish()
    after = os.statvfs(pvc.target)
    assert (after.f_blocks - before.f_blocks) * after.f_frsize > 128 * MIB
    await pvc.down()


async def test_kubelet_s_folder_may_be_a_link(node, volume, scratch):
    """On hosts where the kubelet's root is a symlink all paths go through it, and all calls work."""
    (scratch / "kubelet").symlink_to(scratch)
    pvc = volume()
    await pvc.create()
    pvc.staging = scratch / "kubelet" / "staging" / "pvc-1"
    pvc.target = scratch / "kubelet" / "pods" / "pvc-1" / "mount"
    await pvc.stage()
    await pvc.publish()
    await pvc.publish()
    pvc.write()
    assert len(mounttable.at(pvc.target)) == 1
    await pvc.stats()
    await node.restart()
    await pvc.publish()
    assert len(mounttable.at(pvc.target)) == len(mounttable.at(pvc.staging)) == 1
    await pvc.unpublish()
    await pvc.unstage()
    assert node.devices == []


async def test_a_mounted_filesystem_that_was_made_read_only_is_not_hidden(volume):
    """A block device that an earlier read-only guest had is writable again for a host mount."""
    pvc = volume(parameters={"katacsi.io/direct": "true"})
    await pvc.create()
    for_host, for_guests = {"katacsi.io/direct": "false"}, pvc.context
    pvc.context = for_host
    await pvc.stage()
    pvc.context = for_guests
    await pvc.publish(read_only=True)
    await pvc.unpublish()
    pvc.context = for_host
    await pvc.publish()
    pvc.write()
    await pvc.down()
