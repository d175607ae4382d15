"""Mounts, with the kernel's real ones."""

import concurrent.futures
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from katacsi.errors import HostError, InvalidRequest, OutOfSpace, VolumeInUse
from katacsi.host import block, directories, files, loop, loopdevices, mount, mounttable, sizedfiles, targets

MIB = 1 << 20


@pytest.fixture
def folder(scratch):
    """A folder whose path has all that the mount table escapes, and UTF-8."""
    path = scratch / "with space" / "tab\tnew\nline\\back#" / "größe"
    path.mkdir(parents=True)
    yield path
    for entry in reversed(mounttable.below(path)):
        mount.unmount(entry.target)


@pytest.fixture
def made(folder):
    """Give a maker of directories below the folder."""

    def make(name):
        (folder / name).mkdir()
        return folder / name

    return make


@pytest.fixture
def tmpfs(made):
    """A writable tmpfs with a file in it."""
    path = made("tmpfs")
    mount.mount_tmpfs(path, "source 1", "size=1m", read_only=False)
    (path / "file").write_bytes(b"x")
    return path


@pytest.fixture
def disk(scratch):
    """Give a maker of disks with a filesystem of a type."""
    images = []

    def make(fs_type):
        if not Path(f"/usr/sbin/mkfs.{fs_type}").exists():
            pytest.skip(f"mkfs.{fs_type} is not installed")
        image = scratch / f"{fs_type}.img"
        images.append(image)
        sizedfiles.create_sized(image, 512 * MIB, thick=False)
        device = loop.attach(image)
        subprocess.run([f"mkfs.{fs_type}", "-q", device.path], check=True, capture_output=True)
        return device.path

    yield make
    for image in images:
        for entry in mounttable.of_device(block.device_number(loopdevices.attached_to(image).path)):
            mount.unmount(entry.target)
        loop.ensure_detached(image)


def writable(path):
    """Whether a file can be made there; False on EROFS alone."""
    try:
        (path / "probe").touch()
    except OSError as error:
        if error.errno == errno.EROFS:
            return False
        raise
    (path / "probe").unlink()
    return True


# -- a filesystem --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_filesystem_is_mounted_as_asked(disk, made, fs_type):
    """Flags, type and device are in the table, under the device's own number, btrfs included."""
    device, target = disk(fs_type), made("target")
    mount.mount_filesystem(device, target, fs_type, ["noatime,nosuid", "defaults", "discard"])
    (entry,) = mounttable.at(target)
    assert (entry.target, entry.fs_type, entry.source) == (target, fs_type, str(device))
    assert entry.device == block.device_number(device)
    assert {"rw", "noatime", "nosuid"} <= set(entry.options)
    assert any(option.startswith("discard") for option in entry.super_options)
    assert mounttable.of_device(block.device_number(device)) == [entry]
    assert not entry.read_only
    mount.unmount(target)
    assert mounttable.of_device(block.device_number(device)) == []


def test_a_read_only_filesystem_refuses_writes(disk, made):
    """`read_only` makes the whole filesystem so, whatever the flags."""
    target = made("target")
    mount.mount_filesystem(disk("ext4"), target, "ext4", ["rw"], read_only=True)
    assert not writable(target)
    assert mounttable.at(target)[0].read_only


@pytest.mark.parametrize(
    ("fs_type", "flags"),
    [("xfs", []), ("ext4", ["no-such-option"]), ("nosuchfs", [])],
    ids=["another-filesystem", "unknown-option", "unknown-type"],
)
@pytest.mark.gate("mismatched-filesystem-is-an-error")
def test_a_mount_that_fails_leaves_nothing(disk, made, fs_type, flags):
    """The error names device, type and target; nothing is mounted and nothing was made."""
    device, target = disk("ext4"), made("target")
    with pytest.raises(HostError, match=fs_type) as caught:
        mount.mount_filesystem(device, target, fs_type, flags)
    assert str(device) in caught.value.message
    assert mounttable.at(target) == []


def test_mounting_twice_does_not_stack(disk, made, tmpfs):
    """A target that is a mount point is refused by each of the calls; one mount is there before and after."""
    device, target = disk("ext4"), made("target")
    mount.mount_filesystem(device, target, "ext4", [])
    for again in (
        lambda: mount.mount_filesystem(device, target, "ext4", []),
        lambda: mount.mount_tmpfs(target, "again", "size=4k"),
        lambda: mount.bind(tmpfs, target, read_only=False),
    ):
        with pytest.raises(VolumeInUse, match="already"):
            again()
    assert len(mounttable.at(target)) == 1


def test_a_device_mounted_with_other_flags_is_in_use(disk, made):
    """The kernel refuses a read-only mount of a filesystem that is mounted writable; so do we."""
    device = disk("ext4")
    mount.mount_filesystem(device, made("first"), "ext4", [])
    with pytest.raises(VolumeInUse, match=str(device)):
        mount.mount_filesystem(device, made("second"), "ext4", [], read_only=True)


def test_a_symlink_is_no_target(made, tmpfs, folder):
    """Nothing is mounted where a symlink at the target leads to."""
    behind = made("behind")
    link = folder / "link"
    link.symlink_to(behind)
    for attempt in (
        lambda: mount.mount_tmpfs(link, "x", "size=4k"),
        lambda: mount.bind(tmpfs, link, read_only=True),
        lambda: mount.mount_filesystem(Path("/dev/null"), link, "ext4", []),
    ):
        with pytest.raises(InvalidRequest, match="symlink"):
            attempt()
    assert mounttable.at(behind) == []
    assert mounttable.at(link) == []


def test_symlinks_before_the_target_are_followed(made, folder):
    """A kubelet folder that is a symlink to another disk works like one that is not."""
    real = made("real")
    (folder / "kubelet").symlink_to(real)
    target = folder / "kubelet" / "target"
    targets.ensure_target_directory(target)
    mount.mount_tmpfs(target, "x", "size=4k")
    assert [entry.target for entry in mounttable.at(target)] == [real / "target"]
    assert [entry.target for entry in mounttable.below(folder / "kubelet")] == [real / "target"]
    mount.unmount(target)
    assert not directories.is_mount_point(real / "target")


# -- tmpfs ---------------------------------------------------------------------------------------------


def test_a_guard_takes_no_write_and_runs_nothing(made):
    """A read-only tmpfs carries its source in the table, and the flags that keep it harmless."""
    target = made("target")
    mount.mount_tmpfs(target, "katacsi:v1:default:0a1b2c3d:pvc-1", "size=4k,mode=0555")
    (entry,) = mounttable.at(target)
    assert entry.source == "katacsi:v1:default:0a1b2c3d:pvc-1"
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(entry.options)
    assert "ro" in entry.super_options
    assert not writable(target)
    assert target.stat().st_mode & 0o777 == 0o555


# -- bind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_a_bind_shows_the_source_with_its_own_flags(made, tmpfs, read_only):
    """The target is read-only or not; the source stays writable and keeps its flags."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=read_only, flags=["noatime", "noexec", "discard"])
    assert (target / "file").read_bytes() == b"x"
    assert writable(target) is not read_only
    assert writable(tmpfs)
    (entry,) = mounttable.at(target)
    assert entry.read_only is read_only
    assert {"noatime", "noexec", "nosuid", "nodev"} <= set(entry.options)
    assert entry.device == mounttable.at(tmpfs)[0].device


def test_a_read_only_bind_is_never_writable(made, tmpfs):
    """From its first moment on it refuses writes: somebody who tries all the time never gets in."""
    target = made("target")
    stop, written = threading.Event(), []

    def write():
        while not stop.is_set():
            try:
                fd = os.open(target / "file", os.O_WRONLY)
            except OSError:
                continue
            written.append(fd)
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(300):
        mount.bind(tmpfs, target, read_only=True)
        mount.unmount(target)
    stop.set()
    writer.join()
    assert written == []


def test_a_device_node_is_bound_to_a_file(disk, folder):
    """A block volume is published as a node of the same device, by a bind over an empty file."""
    device, target = disk("ext4"), folder / "block"
    assert targets.ensure_target_file(target)
    mount.bind(device, target, read_only=False)
    assert block.device_number(target) == block.device_number(device)
    assert directories.is_mount_point(target)
    assert not targets.ensure_target_file(target), "bound already, a retry finds it good"
    with pytest.raises(VolumeInUse):
        targets.remove_target(target)
    mount.unmount(target)
    targets.remove_target(target)
    assert not target.exists()


def test_a_bind_of_the_wrong_kind_leaves_nothing(made, folder, tmpfs):
    """A directory does not go on a file, nor an absent source anywhere."""
    (folder / "file").touch()
    with pytest.raises(HostError):
        mount.bind(tmpfs, folder / "file", read_only=False)
    with pytest.raises(HostError, match="absent"):
        mount.bind(folder / "absent", made("target"), read_only=True)
    assert mounttable.at(folder / "file") == []
    assert mounttable.at(folder / "target") == []


def test_a_remount_changes_one_mount_and_one_flag(made, tmpfs):
    """To read-only and back, with the other flags and the other mounts as they were."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False, flags=["noatime", "noexec"])
    before = set(mounttable.at(target)[0].options)
    mount.remount_bind(target, read_only=True)
    assert not writable(target)
    assert set(mounttable.at(target)[0].options) == before - {"rw"} | {"ro"}
    assert writable(tmpfs)
    mount.remount_bind(target, read_only=True)
    mount.remount_bind(target, read_only=False, flags=["ro"])
    assert writable(target)
    assert set(mounttable.at(target)[0].options) == before


def test_a_remount_under_a_writer_is_refused(made, tmpfs):
    """A file that is open for writing keeps the mount writable; nobody is told otherwise."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    with (target / "file").open("ab"):
        with pytest.raises(VolumeInUse, match="open for writing"):
            mount.remount_bind(target, read_only=True)
        assert writable(target)


def test_a_remount_needs_a_mount(made):
    """Where nothing is mounted, the filesystem of the folder is not made read-only."""
    target = made("target")
    with pytest.raises(HostError, match="nothing is mounted"):
        mount.remount_bind(target, read_only=True)
    assert writable(target)


# -- the table -----------------------------------------------------------------------------------------


def test_stacked_mounts_are_told_bottom_to_top(made, tmpfs):
    """Mounts that others stacked on a path are all told, with what hides them last."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    subprocess.run(["mount", "-t", "tmpfs", "upper", target], check=True)
    subprocess.run(["mount", "--bind", tmpfs, target], check=True)
    assert [entry.source for entry in mounttable.at(target)] == ["source 1", "upper", "source 1"]
    assert len({entry.id for entry in mounttable.at(target)}) == 3


def test_a_hidden_mount_is_not_at_a_path(made):
    """A mount below a folder that was covered since is not what the path leads to."""
    outer = made("outer")
    (outer / "inner").mkdir()
    mount.mount_tmpfs(outer / "inner", "hidden", "size=4k")
    subprocess.run(["mount", "-t", "tmpfs", "cover", outer], check=True)
    assert mounttable.at(outer / "inner") == []
    (outer / "inner").mkdir()
    assert mounttable.at(outer / "inner") == []
    mount.mount_tmpfs(outer / "inner", "seen", "size=4k")
    assert [entry.source for entry in mounttable.at(outer / "inner")] == ["seen"]
    mount.unmount(outer / "inner")
    mount.unmount(outer)
    assert [entry.source for entry in mounttable.at(outer / "inner")] == ["hidden"]
    mount.unmount(outer / "inner")


def test_no_mount_is_told_without_reading_the_table(made, monkeypatch):
    """A path where nothing is mounted costs one system call, however many mounts the host has."""
    target = made("target")
    monkeypatch.setattr(mounttable, "_read", lambda: pytest.fail("the table was read"))
    assert mounttable.at(target) == []
    assert mounttable.at(target / "absent" / "below") == []


def test_the_table_is_whole_while_mounts_come_and_go(made, tmpfs):
    """Reading while others mount and unmount misses no mount that was there all the time."""
    lasting = [made(f"lasting {number}") for number in range(60)]
    for path in lasting:
        mount.bind(tmpfs, path, read_only=True)
    stop = threading.Event()

    def churn(path):
        while not stop.is_set():
            mount.bind(tmpfs, path, read_only=False)
            mount.unmount(path)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        churning = [pool.submit(churn, made(f"churning {number}")) for number in range(2)]
        try:
            for _ in range(100):
                assert {*lasting} <= {entry.target for entry in mounttable.table()}
        finally:
            stop.set()
        for future in churning:
            future.result()


# -- unmount -------------------------------------------------------------------------------------------


@pytest.mark.gate("absent-path-is-ok")
def test_unmounting_nothing_is_success(made, folder):
    """Nothing mounted, no such path, a file for a parent: there is nothing to do."""
    (folder / "file").touch()
    for path in (made("target"), folder / "absent", folder / "absent" / "below", folder / "file" / "below"):
        mount.unmount(path)
    mount.unmount(folder / "file")


def test_the_whole_stack_is_unmounted(made, tmpfs):
    """Mounts that a former driver stacked on retries are all gone after one call."""
    target = made("target")
    for _ in range(4):
        subprocess.run(["mount", "--bind", tmpfs, target], check=True)
    assert len(mounttable.at(target)) == 4
    mount.unmount(target)
    assert mounttable.at(target) == []
    assert (tmpfs / "file").exists()


def test_a_busy_mount_stays(made, tmpfs):
    """With an open file the mount is neither taken away nor detached lazily."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    with (target / "file").open("rb") as stream:
        with pytest.raises(VolumeInUse, match="busy"):
            mount.unmount(target)
        assert stream.read() == b"x"
    assert len(mounttable.at(target)) == 1


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ('cd "$0"; exec sleep 60', "works in it"),
        ('exec 7<"$0/file"; exec sleep 60', "has a file open in it"),
    ],
)
def test_who_keeps_a_mount_busy_is_named(made, tmpfs, use, said):
    """The process, and how it uses what is mounted; it may be of a container that nobody knows."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    with subprocess.Popen(["sh", "-c", use, target]) as process:
        try:
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            with pytest.raises(VolumeInUse) as refused:
                mount.unmount(target)
        finally:
            process.kill()
    assert f"(process {process.pid}) {said}" in refused.value.message


def test_a_mount_below_that_keeps_one_busy_is_named(made, tmpfs):
    """With what is mounted, and where."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    (tmpfs / "below").mkdir()
    mount.mount_tmpfs(target / "below", "lower", "size=1m")
    with pytest.raises(VolumeInUse, match="lower is mounted at"):
        mount.unmount(target)
    mount.unmount(target / "below")


def test_a_symlink_is_not_unmounted_through(folder, tmpfs):
    """Unmounting a symlink to a mount point leaves that mount alone."""
    (folder / "link").symlink_to(tmpfs)
    mount.unmount(folder / "link")
    assert len(mounttable.at(tmpfs)) == 1


def test_parallel_unmounts_of_one_target_succeed(made, tmpfs):
    """Two calls that race for the same mount both find their end reached."""
    target = made("target")
    for _ in range(50):
        mount.bind(tmpfs, target, read_only=False)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(mount.unmount, target) for _ in range(4)]:
                done.result()
        assert mounttable.at(target) == []


def test_a_mounted_target_is_not_removed(made, tmpfs):
    """Neither the mount nor what is in it goes with the target."""
    target = made("target")
    mount.bind(tmpfs, target, read_only=False)
    with pytest.raises(VolumeInUse, match="mounted"):
        targets.remove_target(target)
    assert (target / "file").exists()
    mount.unmount(target)
    targets.remove_target(target)
    assert not target.exists()


def test_a_tree_with_a_mount_in_it_is_not_emptied(made, tmpfs):
    """Removing a folder stops at a mount; the volume's files are not touched, bind mounts of one disk too."""
    tree = made("tree")
    (tree / "below").mkdir()
    source = made("same filesystem")
    (source / "precious").write_bytes(b"x")
    mount.bind(source, tree / "below", read_only=False)
    with pytest.raises(HostError, match="unmount it first"):
        directories.remove_tree(tree)
    assert (source / "precious").exists()
    with pytest.raises(HostError, match="unmount it first"):
        directories.remove_tree(tmpfs)
    assert (tmpfs / "file").exists()


# -- a mounted filesystem ------------------------------------------------------------------------------


def test_a_frozen_filesystem_takes_no_write_until_thawed(disk, made):
    """A writer waits while it is frozen and goes on afterwards; who freezes second is told so."""
    target = made("target")
    mount.mount_filesystem(disk("ext4"), target, "ext4", [])
    assert mount.freeze(target)
    assert not mount.freeze(target)
    writer = threading.Thread(target=lambda: (target / "file").write_bytes(b"x"))
    writer.start()
    time.sleep(0.3)
    waited = writer.is_alive()
    mount.thaw(target)
    writer.join(10)
    assert waited
    assert (target / "file").read_bytes() == b"x"
    mount.thaw(target)


def test_the_hosts_own_filesystem_is_not_frozen(made):
    """A path where nothing is mounted is refused: freezing it would stop the host."""
    target = made("target")
    for step in (mount.freeze, mount.thaw):
        with pytest.raises(HostError, match="nothing is mounted"):
            step(target)
    assert writable(target)


def test_usage_is_in_bytes_and_inodes(made):
    """Size, use and rest fit each other and grow with what is written."""
    target = made("target")
    mount.mount_tmpfs(target, "x", "size=1m,nr_inodes=100", read_only=False)
    empty = mount.usage(target)
    assert (empty.total_bytes, empty.total_inodes) == (MIB, 100)
    (target / "file").write_bytes(bytes(MIB // 2))
    used = mount.usage(target)
    assert used.used_bytes == empty.used_bytes + MIB // 2
    assert used.available_bytes == empty.available_bytes - MIB // 2
    assert used.used_inodes == empty.used_inodes + 1
    assert used.free_inodes + used.used_inodes == used.total_inodes
    with pytest.raises(HostError, match="absent"):
        mount.usage(target / "absent")


# -- files that stand for disks, where the filesystem matters ---------------------------------------------


@pytest.fixture
def tight(made):
    """A filesystem with room for 8 MiB."""
    path = made("tight")
    mount.mount_tmpfs(path, "tight", "size=8m", read_only=False)
    return path


def test_a_thick_file_that_does_not_fit_leaves_nothing(tight):
    """Too large a file is "out of space", no file is left and the room is free again; sparse is possible."""
    before = directories.room(tight).available_bytes
    with pytest.raises(OutOfSpace, match="disk"):
        sizedfiles.create_sized(tight / "disk", 16 * MIB, thick=True)
    assert directories.list_directory(tight) == []
    assert directories.room(tight).available_bytes == before
    sizedfiles.create_sized(tight / "disk", 16 * MIB, thick=False)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "tmpfs"])
def test_a_thick_growth_that_does_not_fit_changes_nothing(disk, made, tight, fs_type):
    """Length, bytes and free room are as before, so that the next try starts from the same."""
    folder = tight
    if fs_type != "tmpfs":
        folder = made("target")
        mount.mount_filesystem(disk(fs_type), folder, fs_type, [])
    path = folder / "disk"
    sizedfiles.create_sized(path, 4 * MIB, thick=True)
    before = directories.room(folder).available_bytes
    with pytest.raises(OutOfSpace, match="disk"):
        sizedfiles.grow_file(path, before + 128 * MIB, thick=True)
    assert path.stat().st_size == 4 * MIB
    assert path.stat().st_blocks * 512 < 5 * MIB
    assert directories.room(folder).available_bytes > before - MIB


def test_a_full_filesystem_keeps_the_old_record(tight):
    """A record that cannot be written is "out of space"; the old one stands and no leftover takes room."""
    files.write_atomically(tight / "record", b"old", durable=False)
    (tight / "filler").write_bytes(bytes(directories.room(tight).available_bytes))
    with pytest.raises(OutOfSpace, match="record"):
        files.write_atomically(tight / "record", b"x" * MIB)
    assert files.read(tight / "record") == b"old"
    assert directories.list_directory(tight) == ["filler", "record"]


@pytest.mark.parametrize(("fs_type", "possible"), [("xfs", True), ("btrfs", True), ("ext4", False)])
def test_a_clone_shares_blocks_where_the_filesystem_can(disk, made, fs_type, possible):
    """A clone has the bytes, takes next to no room, and does not follow its source; else nothing is left."""
    target = made("target")
    mount.mount_filesystem(disk(fs_type), target, fs_type, [])
    source, clone = target / "source", target / "clone"
    source.write_bytes(b"x" * (32 * MIB))
    os.sync()
    before = directories.room(target).available_bytes
    assert sizedfiles.clone_file(source, clone) is possible
    if not possible:
        assert "clone" not in directories.list_directory(target)
        return
    assert before - directories.room(target).available_bytes < 8 * MIB
    with source.open("r+b") as stream:
        stream.write(b"changed")
    assert clone.read_bytes() == b"x" * (32 * MIB)


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
def test_a_thick_copy_shares_no_blocks(disk, made, fs_type):
    """The room of a thick copy is its own: it is gone from the filesystem when the copy is made."""
    target = made("target")
    mount.mount_filesystem(disk(fs_type), target, fs_type, [])
    source, copy = target / "source", target / "copy"
    source.write_bytes(b"x" * (64 * MIB))
    os.sync()
    before = directories.room(target).available_bytes
    sizedfiles.copy_file(source, copy, thick=True)
    os.sync()
    assert before - directories.room(target).available_bytes >= 60 * MIB
    assert copy.read_bytes() == source.read_bytes()


def test_a_clone_does_not_cross_filesystems(disk, made, tmpfs):
    """Between two filesystems there is no clone, and a copy works."""
    target = made("target")
    mount.mount_filesystem(disk("xfs"), target, "xfs", [])
    (target / "source").write_bytes(b"abc" * MIB)
    assert sizedfiles.clone_file(target / "source", tmpfs / "clone") is False
    with pytest.raises(OutOfSpace):
        sizedfiles.copy_file(target / "source", tmpfs / "copy")
    assert directories.list_directory(tmpfs) == ["file"]
    (target / "source").write_bytes(b"abc")
    sizedfiles.copy_file(target / "source", tmpfs / "copy")
    assert (tmpfs / "copy").read_bytes() == b"abc"


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_reserved_blocks_are_no_data(disk, made, fs_type):
    """A thick file is proven blank until something is written, and has all its blocks."""
    target = made("target")
    mount.mount_filesystem(disk(fs_type), target, fs_type, [])
    path = target / "disk"
    sizedfiles.create_sized(path, 16 * MIB, thick=True)
    assert path.stat().st_blocks * 512 >= 16 * MIB
    assert not sizedfiles.has_data(path)
    sizedfiles.grow_file(path, 32 * MIB, thick=True)
    assert not sizedfiles.has_data(path)
    with path.open("r+b") as stream:
        stream.seek(31 * MIB)
        stream.write(b"x")
    assert sizedfiles.has_data(path)
