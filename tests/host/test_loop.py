"""Loop devices, with the kernel's real ones."""

import concurrent.futures
import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from katacsi.errors import HostError, Precondition, VolumeInUse
from katacsi.host import _loopctl, block, directories, files, loop, loopdevices, mount, sizedfiles
from support import leases

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture
def file(scratch):
    """A sparse file on a disk, under a path with a space and more; its devices are taken away in the end."""
    path = scratch / "pool 1" / "größe#\\" / "disk.img"
    directories.ensure_directory(path.parent)
    sizedfiles.create_sized(path, SIZE, thick=False)
    identity = directories.identity(path)
    yield path
    while device := loopdevices.holding(identity):
        loop.detach(device, identity)
    if path.exists():
        loop.ensure_detached(path)


@pytest.fixture
def own(monkeypatch):
    """A free device that nobody else on this host is given, offered to the next attach.

    It is removed in the end, so ask for it before the file whose device it becomes.
    """
    number = 1000 + os.getpid() % 1000
    control = os.open("/dev/loop-control", os.O_RDWR)
    fcntl.ioctl(control, _loopctl.LOOP_CTL_ADD, number)
    free, offered = _loopctl.free, []
    monkeypatch.setattr(_loopctl, "free", lambda control: offered.pop() if offered else free(control))

    def offer():
        offered.append(number)
        return Path(f"/dev/loop{number}")

    yield offer
    assert offered == [], "the device was offered and not tried"
    with contextlib.suppress(OSError):
        fcntl.ioctl(control, _loopctl.LOOP_CTL_REMOVE, number)
    os.close(control)


def devices_of(path):
    """Give the numbers of all devices that have a file, asked of the kernel anew."""
    identity = directories.identity(path)
    return [device.number for device in loopdevices.devices() if device.backing == identity]


def losetup(*args):
    """Call losetup; give what it prints."""
    return subprocess.run(
        ["losetup", *map(str, args)], check=True, capture_output=True, text=True
    ).stdout.strip()


def queue(device, name):
    """Read one of a device's queue attributes."""
    return int(Path(f"/sys/block/{device.path.name}/queue/{name}").read_text())


# -- attach --------------------------------------------------------------------------------------------


def test_a_device_is_what_was_asked_for(file):
    """4096-byte sectors, direct I/O, the file's size, writable, and no autoclear; losetup says the same."""
    device = loop.attach(file)
    assert device.size_bytes == SIZE
    assert device.backing == directories.identity(file)
    assert (device.sector_size, device.direct_io, device.read_only, device.autoclear) == (
        4096,
        True,
        False,
        False,
    )
    assert (
        losetup("--list", "--noheadings", "--raw", "--output", "DIO,LOG-SEC,OFFSET", device.path)
        == "1 4096 0"
    )
    device.path.write_bytes(b"written through the device")
    os.sync()
    assert file.read_bytes()[:26] == b"written through the device"


def test_a_file_has_one_device_however_often_attached(file):
    """A repetition gives the device that is there, also when the driver was restarted in between."""
    first = loop.attach(file)
    assert loop.attach(file) == first
    loopdevices.hints.clear()
    assert loop.attach(file) == first
    assert loopdevices.attached_to(file) == first
    assert devices_of(file) == [first.number]


def test_parallel_attaches_of_one_file_make_one_device(file):
    """24 threads at once, for which `losetup --nooverlap` makes several devices, get the same one."""
    for _ in range(5):
        start = threading.Barrier(24)

        def attach(start=start):
            start.wait()
            return loop.attach(file)

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            got = [future.result() for future in [pool.submit(attach) for _ in range(24)]]
        assert len({device.number for device in got}) == 1
        assert devices_of(file) == [got[0].number]
        loop.ensure_detached(file)
        loopdevices.hints.clear()


def test_parallel_attaches_by_processes_make_one_device(file):
    """Two drivers on one host, as during an update, get the same device too."""
    script = "import sys; from pathlib import Path; from katacsi.host import loop; sys.stdin.readline();"
    script += "print(loop.attach(Path(sys.argv[1])).number)"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    numbers = {other.communicate("go\n", timeout=60)[0] for other in others}
    assert numbers == {f"{number}\n" for number in devices_of(file)}
    assert len(numbers) == 1


def test_parallel_attaches_of_many_files_all_succeed(file):
    """16 threads that race for free devices each get one of their own."""
    paths = [file.with_name(f"disk {number}") for number in range(16)]
    for path in paths:
        sizedfiles.create_sized(path, MIB, thick=False)
    try:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            got = list(pool.map(loop.attach, paths))
        assert len({device.number for device in got}) == 16
        assert [device.backing for device in got] == [directories.identity(path) for path in paths]
    finally:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(loop.ensure_detached, paths))
    assert [devices_of(path) for path in paths] == [[]] * 16


def test_two_drivers_racing_for_free_devices_both_succeed(file):
    """A free device that another process takes first is no failure: the next one is tried."""
    paths = [file.with_name(f"disk {number}") for number in range(2)]
    for path in paths:
        sizedfiles.create_sized(path, MIB, thick=False)
    script = (
        "import sys; from pathlib import Path; from katacsi.host import loop; p = Path(sys.argv[1])\n"
        "for _ in range(60): loop.attach(p); loop.ensure_detached(p)"
    )
    racing = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for path in paths]
    assert [process.wait(60) for process in racing] == [0, 0]


def test_a_device_whose_node_is_missing_gets_one(file):
    """In a container whose /dev was made at its start, the node of a new device is made when it is needed."""
    device = loop.attach(file)
    device.path.unlink()
    loopdevices.hints.clear()
    assert loop.attach(file) == device
    assert device.path.is_block_device()


def test_a_file_attached_by_somebody_with_other_properties_is_refused(file):
    """512-byte sectors without direct I/O are not quietly taken for ours; nothing is changed."""
    foreign = losetup("--find", "--show", file)
    with pytest.raises(Precondition, match=r"512-byte sectors.*no direct I/O") as caught:
        loop.attach(file)
    assert f"losetup -d {foreign}" in caught.value.message
    assert [f"/dev/loop{number}" for number in devices_of(file)] == [foreign]


def test_a_device_of_a_part_of_the_file_is_refused(file):
    """A device that begins somewhere in the file is not the volume."""
    losetup("--find", "--offset", 4096, "--sector-size", 4096, "--direct-io=on", file)
    with pytest.raises(Precondition, match="a part of the file"):
        loop.attach(file)


def test_properties_that_cannot_be_had_are_an_error_and_no_device(file):
    """The kernel drops direct I/O in silence where the filesystem has none; that does not pass."""
    losetup("--find", "--sector-size", 512, file)  # not of interest; shows that 512 works at all
    loop.ensure_detached(file)
    with pytest.raises(HostError):
        loop.attach(file, sector_size=3000)
    assert devices_of(file) == []
    assert loop.attach(file, sector_size=512, direct_io=False).sector_size == 512


def test_direct_io_that_was_dropped_is_noticed(file, monkeypatch):
    """Where the kernel answers success without direct I/O, attach fails and leaves no device behind."""
    monkeypatch.setattr(_loopctl, "LO_FLAGS_DIRECT_IO", 0)  # the wish is not sent, so the kernel drops it
    with pytest.raises(HostError, match="no direct I/O"):
        loop.attach(file)
    assert devices_of(file) == []


def test_only_a_regular_file_is_attached(file):
    """A directory, a device and a symlink are refused."""
    link = file.with_name("link")
    link.symlink_to(file)
    for path in (file.parent, Path("/dev/null"), link, file.with_name("absent")):
        with pytest.raises(HostError):
            loop.attach(path)
        with pytest.raises(HostError):
            loopdevices.attached_to(path)


def test_a_grown_file_shows_when_told(file):
    """The device has its old size until it is told, also while it is open; attach tells it too."""
    device = loop.attach(file)
    with device.path.open("rb"):
        sizedfiles.grow_file(file, 2 * SIZE, thick=False)
        assert loopdevices.attached_to(file).size_bytes == SIZE
        assert loop.set_capacity(device.path) == 2 * SIZE
    sizedfiles.grow_file(file, 3 * SIZE, thick=False)
    assert loop.attach(file).size_bytes == 3 * SIZE
    assert loopdevices.attached_to(file).size_bytes == 3 * SIZE


def test_loop_devices_are_available_here():
    """Where these tests run there is nothing to complain about."""
    assert loop.available() is None


def test_a_read_only_volume_does_not_spoil_its_device_for_the_next(file):
    """The read-only flag of a device outlasts its file; neither we nor others get it with the number."""
    device = loop.attach(file)
    block.set_read_only(device.path, True)
    assert loop.attach(file).read_only, "published read-only, it is still the same device"
    loop.detach(device, device.backing)
    assert not block.is_read_only(device.path)


def test_a_device_left_read_only_by_others_becomes_writable(own, file):
    """A free device with the flag, left by somebody else, is writable for its new file."""
    path = own()
    assert loop.attach(file).path == path
    block.set_read_only(path, True)
    losetup("--detach", path)
    assert block.is_read_only(path)
    own()
    device = loop.attach(file)
    assert (device.path, device.read_only) == (path, False)


def test_missing_loop_devices_are_explained(monkeypatch, tmp_path):
    """Without a control device the answer names the remedy instead of raising."""
    monkeypatch.setattr(_loopctl, "CONTROL", str(tmp_path / "loop-control"))
    assert "modprobe loop" in loop.available()


# -- which device has a file ---------------------------------------------------------------------------


def test_a_file_without_a_device_is_proven_free_without_a_search(file, monkeypatch):
    """The proof does not look at the other devices, so its cost does not grow with their number."""
    monkeypatch.setattr(loopdevices, "devices", lambda: pytest.fail("searched"))
    assert loopdevices.attached_to(file) is None


def test_a_file_that_somebody_reads_is_still_searched_for(file):
    """With a reader there is no cheap proof; the search finds no device, and later the one there is."""
    with file.open("rb"):
        assert loopdevices.attached_to(file) is None
        foreign = losetup("--find", "--show", "--read-only", file)
        assert loopdevices.attached_to(file).path == Path(foreign)
    assert loopdevices.attached_to(file).read_only


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs", "tmpfs"])
@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_an_attached_file_is_never_proven_alone(scratch, fs_type, read_only):
    """On each filesystem where a lease counts as proof, an attached loop device forbids it."""
    with filesystem(scratch, fs_type) as folder:
        path = folder / "disk"
        sizedfiles.create_sized(path, MIB, thick=False)
        assert leases.opened_elsewhere(path) is False
        device = losetup("--find", "--show", *(["--read-only"] if read_only else []), path)
        try:
            assert leases.opened_elsewhere(path) is True
            loopdevices.hints.clear()
            assert loopdevices.attached_to(path).path == Path(device)
        finally:
            loop.ensure_detached(path)
        assert leases.opened_elsewhere(path) is False


@contextlib.contextmanager
def filesystem(scratch, fs_type):
    """Give a folder on a fresh filesystem of a type."""
    folder = scratch / fs_type
    folder.mkdir()
    if fs_type == "tmpfs":
        mount.mount_tmpfs(folder, "test", "size=64m", read_only=False)
        yield folder
        mount.unmount(folder)
        return
    if not Path(f"/usr/sbin/mkfs.{fs_type}").exists():
        pytest.skip(f"mkfs.{fs_type} is not installed")
    image = scratch / f"{fs_type}.img"
    sizedfiles.create_sized(image, 512 * MIB, thick=False)
    device = loop.attach(image)
    try:
        subprocess.run([f"mkfs.{fs_type}", "-q", device.path], check=True, capture_output=True)
        mount.mount_filesystem(device.path, folder, fs_type, [])
        yield folder
    finally:
        mount.unmount(folder)
        loop.ensure_detached(image)


def test_a_renamed_file_keeps_its_device(file):
    """The device goes with the file; a new file under the old name has none."""
    device = loop.attach(file)
    renamed = file.with_name("renamed")
    directories.rename(file, renamed)
    sizedfiles.create_sized(file, SIZE, thick=False)
    loopdevices.hints.clear()
    assert loopdevices.attached_to(renamed) == device
    assert loopdevices.attached_to(file) is None
    loop.ensure_detached(renamed)


def test_a_deleted_file_is_not_taken_for_its_successor(file):
    """The device of an unlinked file belongs to nobody of that name, is found by identity, and goes off."""
    device = loop.attach(file)
    identity = directories.identity(file)
    file.unlink()
    sizedfiles.create_sized(file, SIZE, thick=False)
    loopdevices.hints.clear()
    assert loopdevices.attached_to(file) is None
    assert loop.attach(file).number != device.number
    assert loopdevices.holding(identity) == device
    loop.detach(device, identity)
    assert loopdevices.holding(identity) is None
    assert loopdevices.attached_to(file) is not None


def test_a_stale_hint_is_not_believed(own, file):
    """A device that was given to another file behind our back is not reported for the first one."""
    other = file.with_name("other")
    sizedfiles.create_sized(other, SIZE, thick=False)
    path = own()
    assert loop.attach(file).path == path
    losetup("--detach", path)
    losetup("--direct-io=on", "--sector-size", 4096, path, other)
    assert loopdevices.attached_to(file) is None
    assert loopdevices.attached_to(other).path == path
    loop.ensure_detached(other)


# -- detach --------------------------------------------------------------------------------------------


def test_detach_is_proven_and_may_be_repeated(file):
    """Afterwards the file has no device and nobody has it open; once more is success."""
    device = loop.attach(file)
    loop.detach(device, device.backing)
    assert devices_of(file) == []
    assert leases.opened_elsewhere(file) is False
    loop.detach(device, device.backing)
    loop.detach(device.path, device.backing)
    loop.ensure_detached(file)


def test_a_held_device_stays_and_stays_usable(file):
    """The kernel answers success and detaches at the last close; we say "in use", and it is so for good."""
    device = loop.attach(file)
    with device.path.open("r+b", buffering=0) as holder:
        with pytest.raises(VolumeInUse, match=str(device.path)):
            loop.detach(device, device.backing)
        holder.write(b"still works")
        assert loopdevices.attached_to(file) == device, "not autoclear, and all else as before"
    assert loopdevices.attached_to(file) == device, "the last close did not take the file off"
    loop.detach(device, device.backing)
    assert leases.opened_elsewhere(file) is False


def test_a_mounted_device_stays_mounted_and_attached(file):
    """A volume that is mounted is refused at once, before the kernel is told anything."""
    device = loop.attach(file)
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True)
    folder = file.parent / "mounted"
    folder.mkdir()
    mount.mount_filesystem(device.path, folder, "ext4", [])
    try:
        started = time.monotonic()
        with pytest.raises(VolumeInUse):
            loop.detach(device, device.backing)
        assert time.monotonic() - started < 0.1
        (folder / "file").write_bytes(b"still works")
    finally:
        mount.unmount(folder)
    assert loopdevices.attached_to(file) == device


@pytest.mark.parametrize(("flags", "for_s"), [(0, 0.05), (os.O_EXCL, 0.01)], ids=["open", "claimed"])
def test_a_short_look_at_a_device_does_not_stop_a_detach(file, flags, for_s):
    """udevd opens a device for some milliseconds, a foreign search for a free one claims it; detach waits."""
    device = loop.attach(file)
    holder = os.open(device.path, os.O_RDONLY | flags)
    threading.Timer(for_s, os.close, [holder]).start()
    loop.detach(device, device.backing)
    assert leases.opened_elsewhere(file) is False


def test_the_device_of_another_file_is_left_alone(own, file):
    """A number that was given to another file meanwhile is not detached from it."""
    other = file.with_name("other")
    sizedfiles.create_sized(other, SIZE, thick=False)
    path = own()
    identity = loop.attach(file).backing
    loop.detach(path, identity)
    losetup("--direct-io=on", "--sector-size", 4096, path, other)
    loop.detach(path, identity)
    assert loopdevices.attached_to(other).path == path
    loop.ensure_detached(other)


def test_each_of_two_devices_of_a_file_goes(file):
    """Where somebody called losetup twice, "detached" means from both."""
    loop.attach(file)
    losetup("--find", file)
    assert len(devices_of(file)) == 2
    loop.ensure_detached(file)
    assert devices_of(file) == []


def test_an_autoclear_device_is_made_ours_again(file):
    """After a foreign `losetup -d` of a held device, attach keeps it from vanishing with its holder."""
    device = loop.attach(file)
    with device.path.open("rb"):
        losetup("--detach", device.path)
        assert loopdevices.attached_to(file).autoclear
        assert loop.attach(file) == device
    assert loopdevices.attached_to(file) == device


def test_a_backing_file_is_freed_by_detach(file):
    """Once detached, an unlinked file's blocks are the filesystem's again."""
    files.ensure_absent(file)
    sizedfiles.create_sized(file, 256 * MIB, thick=True)
    device = loop.attach(file)
    with file.open("rb") as held:
        loop.detach(device, device.backing)
        assert os.fstat(held.fileno()).st_nlink == 1
        assert leases.opened_elsewhere(file) is True, "the reader of this test"
    before = directories.room(file.parent).available_bytes
    files.ensure_absent(file)
    sizedfiles.create_sized(file, MIB, thick=False)
    deadline = time.monotonic() + 10
    while directories.room(file.parent).available_bytes < before + 128 * MIB and time.monotonic() < deadline:
        time.sleep(0.05)
    assert directories.room(file.parent).available_bytes >= before + 128 * MIB


# -- discard -------------------------------------------------------------------------------------------


def punch(device):
    """Discard a whole device; give the error, None if it took it."""
    with device.path.open("r+b") as stream:
        try:
            fcntl.ioctl(stream, 0x1277, (0).to_bytes(8, "little") + device.size_bytes.to_bytes(8, "little"))
        except OSError as error:
            return error
    return None


def test_a_thick_file_stays_thick(file):
    """What mkfs, fstrim or a guest discard of a thick volume is refused, and its blocks stay reserved."""
    files.ensure_absent(file)
    sizedfiles.create_sized(file, SIZE, thick=True)
    device = loop.attach(file, discard=False)
    assert punch(device) is not None
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True)
    assert file.stat().st_blocks * 512 >= SIZE


def test_a_thin_file_gives_back_what_is_discarded(file):
    """With discard, what a guest frees is free in the pool."""
    device = loop.attach(file)
    device.path.write_bytes(b"x" * (8 * MIB))
    os.sync()
    assert file.stat().st_blocks * 512 >= 8 * MIB
    assert punch(device) is None
    assert file.stat().st_blocks == 0


def test_a_thick_volume_does_not_spoil_its_device_for_the_next(own, file):
    """The limit of a device stays zero for good, so a device that was thick is removed with its volume."""
    path = own()
    thick = loop.attach(file, discard=False)
    assert (thick.path, queue(thick, "discard_max_bytes")) == (path, 0)
    loop.detach(thick, thick.backing)
    assert not Path(f"/sys/block/{path.name}").exists()


def test_a_spoilt_device_is_not_given_to_a_thin_volume(own, file):
    """A free device without discard, left by somebody else or by a crash, is replaced by a sound one."""
    path = own()
    spoilt = loop.attach(file, discard=False)
    assert spoilt.path == path
    losetup("--detach", path)
    assert queue(spoilt, "discard_max_bytes") == 0
    own()
    device = loop.attach(file)
    assert queue(device, "discard_max_bytes") > 0
    assert punch(device) is None


def test_a_thin_volume_on_a_spoilt_device_gets_another(file):
    """A crash between attach and the look at the limit is mended by the next attach."""
    spoilt = loop.attach(file, discard=False)
    device = loop.attach(file)
    assert queue(device, "discard_max_bytes") > 0
    assert devices_of(file) == [device.number]
    assert spoilt.backing == device.backing


def test_a_thick_volume_attached_half_way_is_finished(file):
    """A crash between attach and the setting of the limit is mended by the next attach."""
    device = loop.attach(file)
    assert loop.attach(file, discard=False) == device
    assert queue(device, "discard_max_bytes") == 0
