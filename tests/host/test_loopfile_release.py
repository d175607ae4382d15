"""Teardown when the pool is away: a loop device is found by what the kernel has of it, and goes, proven."""

import contextlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from katacsi.backends.api import Attachment, CreateRequest, PoolContext, SizeRange, VolumeId
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings, labels
from katacsi.errors import PoolUnavailable, VolumeInUse
from katacsi.host import loop, loopdevices, looprelease
from katacsi.model import MIB
from support import blockdevices
from support.pools import mounted_filesystem

CONTEXT = PoolContext("pool", "test.katacsi.io", "node-1")


def made(folder, context=CONTEXT):
    """Make the backend, not started."""
    return LoopfileBackend(LoopfileSettings(directory=folder), context)


async def started(folder):
    """Make the backend and start it."""
    backend = made(folder)
    await backend.start()
    return backend


def run(*argv):
    """Run a tool."""
    subprocess.run(argv, check=True, capture_output=True)


@contextlib.contextmanager
def held_open(device):
    """Have a process hold a device open, as QEMU does: without a claim."""
    with device.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        file.close()
        try:
            yield
        finally:
            holder.kill()


def has_device(volume, device=None):
    """Whether any loop device is this volume's: its number is given to others at once."""
    disk = Path("volumes", volume.id.name, "disk.img")
    return any(labels.is_of_volume(found, disk, volume.id, device) for found in looprelease.every())


class Pool:
    """A pool on a filesystem of its own, with a volume that is attached."""

    def __init__(self, point):
        self.point = point
        self.disk = point / "volumes" / "pvc-1" / "disk.img"

    async def begin(self):
        """Set the pool up."""
        self.backend = await started(self.point)
        self.volume = await self.backend.create(CreateRequest("pvc-1", SizeRange(MIB)))
        self.device = (await self.backend.attach(self.volume.id, {}, {})).path
        self.attachment = Attachment(self.device)
        (self.other,) = [await self.backend.create(CreateRequest("pvc-2", SizeRange(MIB)))]
        self.others_device = (await self.backend.attach(self.other.id, {}, {})).path

    def unlinked(self):
        """Somebody removed the image."""
        self.disk.unlink()

    def folder_removed(self):
        """Somebody removed the volume's folder."""
        shutil.rmtree(self.disk.parent)

    def shut_down(self):
        """The filesystem gave up: its disk failed."""
        run("xfs_io", "-x", "-c", "shutdown", self.point)

    def unmounted(self):
        """The disk was unmounted with force; its mount point is an empty folder."""
        run("umount", "--lazy", self.point)

    def unmounted_after_a_failure(self):
        """Both, as when a disk is pulled and udev or systemd cleans up."""
        self.shut_down()
        self.unmounted()


WAYS = ["unlinked", "folder_removed", "shut_down", "unmounted", "unmounted_after_a_failure"]


@pytest.fixture(params=WAYS)
async def pool(request, scratch):
    """A pool that breaks by `pool.breaks()`."""
    point = scratch / "xfs-pool"
    image = scratch / "xfs.img"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run("mkfs.xfs", "-q", image)
    run("mount", "-o", "loop", image, point)
    pool = Pool(point)
    pool.breaks = getattr(pool, request.param)
    try:
        await pool.begin()
        yield pool
    finally:
        for found in looprelease.every():
            if found.path in (pool.device, pool.others_device) and "/volumes/pvc-" in found.shown:
                looprelease.release(found)
        await pool.backend.close()
        if f" {point} " in Path("/proc/self/mountinfo").read_text():
            run("umount", point)


@pytest.mark.gate("teardown-needs-no-storage")
@pytest.mark.parametrize("again", ["same process", "not started"])
async def test_a_device_goes_without_its_pool(pool, again):
    """Its own and no other, however the pool broke, and whether or not it could be started since."""
    pool.breaks()
    backend = pool.backend
    if again == "not started":
        await backend.close()
        backend = made(pool.point)
    await backend.release(pool.volume.id, pool.attachment)
    assert not has_device(pool.volume, pool.device)
    assert has_device(pool.other, pool.others_device)
    await backend.release(pool.volume.id, pool.attachment)  # done already is success
    await backend.release(pool.other.id, Attachment(pool.others_device))
    assert not has_device(pool.other, pool.others_device)


@pytest.mark.gate("teardown-needs-no-storage")
async def test_a_held_device_stays(pool):
    """It is refused with its holder, works on, and goes when nobody holds it; QEMU's open is no claim."""
    pool.breaks()
    with held_open(pool.device):
        with pytest.raises(VolumeInUse, match=rf"{pool.device} .* is held by .*process"):
            await pool.backend.release(pool.volume.id, pool.attachment)
        assert has_device(pool.volume, pool.device)
    assert has_device(pool.volume, pool.device), "the kernel was told to let go as soon as it could"
    await pool.backend.release(pool.volume.id, pool.attachment)
    assert not has_device(pool.volume, pool.device)


@pytest.mark.parametrize("lost", ["the image", "the folder"])
async def test_a_volume_whose_image_was_removed_by_hand_is_torn_down(scratch, lost):
    """The pool is there: detach and delete find the device that its file cannot name any more."""
    with mounted_filesystem(scratch, "ext4", 64) as point:
        pool = Pool(point)
        await pool.begin()
        pool.unlinked() if lost == "the image" else pool.folder_removed()
        attached = await pool.backend.attached(pool.volume.id)
        assert (attached.path, attached.size_bytes) == (pool.device, MIB)
        await pool.backend.delete(pool.volume.id)
        assert not has_device(pool.volume, pool.device)
        assert await pool.backend.attached(pool.volume.id) is None
        assert await pool.backend.get(pool.volume.id) is None
        await pool.backend.delete(pool.other.id)
        await pool.backend.close()


async def test_what_is_not_provably_the_volumes_stays(scratch):
    """Whatever the node remembers: a device of another file, of another pool, of another volume."""
    folder = scratch / "pool"
    folder.mkdir()
    backend = await started(folder)
    volume = await backend.create(CreateRequest("pvc-1", SizeRange(MIB)))
    device = (await backend.attach(volume.id, {}, {})).path
    (scratch / "volumes" / "pvc-1").mkdir(parents=True)
    foreign = blockdevices.sparse_file(scratch / "volumes" / "pvc-1" / "disk.img", MIB)
    with blockdevices.loop_device(foreign) as others:
        for volume_id in (
            replace(volume.id, name="pvc-2"),
            replace(volume.id, pool_uid="00000000"),
            VolumeId("pool", "00000000", "pvc-2"),
        ):
            for remembered in (device, others, Path("/dev/loop1048575"), None):
                await made(folder).release(volume_id, Attachment(remembered))
        assert has_device(volume)
        await made(folder).release(volume.id, Attachment(others))
        assert others in {found.path for found in looprelease.every()}
        assert not has_device(volume)
    await backend.close()


async def test_no_pool_is_founded_where_one_is_missing(scratch):
    """An empty folder whose disk was unmounted is told by the devices of its volumes, until they are gone."""
    with mounted_filesystem(scratch, "ext4", 64) as elsewhere:
        point = scratch / "pool"
        point.mkdir()
        run("mount", "--bind", elsewhere, point)
        backend = await started(point)
        volume = await backend.create(CreateRequest("pvc-1", SizeRange(MIB)))
        device = (await backend.attach(volume.id, {}, {})).path
        await backend.close()
        run("umount", "--lazy", point)
        lay_there = rf"{device} is the device of a volume that lay there.*mount it again"
        with pytest.raises(PoolUnavailable, match=lay_there):
            await made(point).start()
        assert list(point.iterdir()) == []
        # Another folder, and a node that shares the kernel, are founded all the same.
        (scratch / "new").mkdir()
        for new in (made(scratch / "new"), made(point, replace(CONTEXT, node_id="node-2"))):
            await new.start()
            await new.close()
        for entry in point.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        run("mount", "--bind", elsewhere, point)
        backend = await started(point)
        assert await backend.get(volume.id) == volume
        await backend.delete(volume.id)
        await backend.close()
        run("umount", point)
    assert not has_device(volume)


def test_the_kernel_shows_a_label_and_a_path(scratch):
    """A label stays with the device; the path says when its file is unlinked, and is no proof alone."""
    file = scratch / "file"
    blockdevices.sparse_file(file, MIB)
    device = loop.attach(file, label="katacsi:a-label")
    try:
        (found,) = [found for found in looprelease.every() if found.path == device.path]
        assert (found.label, found.shown) == ("katacsi:a-label", str(file))
        assert loopdevices.attached_to(file).label == "katacsi:a-label"
        file.unlink()
        (found,) = [found for found in looprelease.every() if found.path == device.path]
        assert found.is_of(file)
        assert found.shown.endswith("(deleted)")
    finally:
        looprelease.release(found)
    assert found not in looprelease.every()
    looprelease.release(found)
