"""What a call said has happened outlasts a power cut, also where a sync had failed, or a kill came before it.

The filesystem of the pool is an image whose loop device is buffered: what its device was given stands in the
image at once, and what the pool's filesystem still keeps in memory does not. So a copy of the image, taken
while it is mounted, is what a power cut leaves.
"""

import contextlib
import errno
import os
import re
import subprocess

import pytest

from katacsi.backends.api import CreateRequest, FormatState, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.backends.loopfile.records import VolumeRecord
from katacsi.errors import DataLossAlarm, HostError, OutOfSpace
from katacsi.host import _linux, files, sizedfiles
from support import node as nodes
from support.node import MIB, Volume
from support.pools import mounted_filesystem


def run(*command):
    """Run a tool; nothing else is going on in the loop meanwhile."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["ext4", "xfs"])
async def node(request, scratch):
    """A node whose pool has a filesystem of its own, which commits nothing by itself while a test runs."""
    with mounted_filesystem(scratch, request.param, 512) as point:
        run("mount", "-o", "remount,commit=300" if request.param == "ext4" else "remount", point)
        pool = {"backend": "loopfile", "directory": str(point)}
        async with nodes.serving(scratch, pools={"default": pool}) as served:
            served.pool = point
            served.image = scratch / f"{request.param}.img"
            yield served


@contextlib.contextmanager
def after_power_cut(node, scratch):
    """Give the pool's folder as a start after a power cut at this moment would find it."""
    image, point = scratch / "cut.img", scratch / "cut"
    run("cp", "--sparse=always", node.image, image)
    point.mkdir()
    options = "loop,nouuid" if node.image.name == "xfs.img" else "loop"
    run("mount", "-o", options, image, point)
    try:
        yield point
    finally:
        run("umount", point)
        image.unlink()
        point.rmdir()


@contextlib.contextmanager
def failing(owner, name, at):
    """Let a function fail at its n-th call, as on a disk that does not answer; it does nothing then."""
    real, calls = getattr(owner, name), []

    def counted(*args):
        calls.append(args)
        if len(calls) == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield
    assert len(calls) >= at, "the failure never came"


def stored(pool, pvc):
    """Read the record of a volume, wherever the pool's folder is."""
    return VolumeRecord.decode((pool / "volumes" / pvc.name / "volume.json").read_bytes())


def extent(file):
    """Give the first extent of a file: where it lies on its device, and its length, in bytes."""
    told = run("filefrag", "-v", "-b1", file)
    found = re.search(r"^ +0: +\d+\.\. +\d+: +(\d+)\.\. +\d+: +(\d+):", told, re.MULTILINE)
    return int(found[1]), int(found[2])


class FailingDisk:
    """A pool's filesystem on memory: what was taken from it cannot be written, for none is left."""

    def __init__(self, memory):
        self.memory, self.image = memory, memory / "ext4.img"

    @contextlib.contextmanager
    def unwritable(self, file):
        """Let the kernel fail to write back this file."""
        run("sync", "--file-system", file)
        offset, length = extent(file)
        run("fallocate", "-p", "-o", str(offset), "-l", str(length), self.image)
        filling = self.memory / "filling"
        subprocess.run(["dd", "if=/dev/zero", f"of={filling}", "bs=4096"], check=False, capture_output=True)
        try:
            yield
        finally:
            filling.unlink()

    def holds(self, content):
        """Whether these bytes reached the disk."""
        return content in self.image.read_bytes()


@pytest.fixture
def failing_disk(scratch):
    """Give such a disk; its filesystem is mounted at `point`."""
    memory = scratch / "memory"
    memory.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=200m", "test", memory)
    try:
        with mounted_filesystem(memory, "ext4", 64, "-b", "4096") as point:
            disk = FailingDisk(memory)
            disk.point = point
            yield disk
    finally:
        run("umount", memory)


def test_a_page_that_failed_to_be_written_is_clean_and_has_to_be_written_again(failing_disk):
    """The kernel's part: a later fsync succeeds and stores nothing."""
    record = failing_disk.point / "record"
    record.write_bytes(b"former".ljust(4096))
    with failing_disk.unwritable(record), pytest.raises(OutOfSpace, match="overwrite"):
        files.overwrite(record, 0, b"newest")
    assert record.read_bytes()[:6] == b"newest", "what failed can be read, or this test proves nothing"
    sizedfiles.make_durable(failing_disk.point)
    assert not failing_disk.holds(b"newest"), "what is clean is not synced, or nothing has to be mended"
    files.write_again(record)
    sizedfiles.make_durable(failing_disk.point)
    assert failing_disk.holds(b"newest")


async def test_facts_that_failed_to_be_written_reach_the_disk_before_a_device_is_given(failing_disk):
    """The pool's part: what a guest relies on is on the disk, or it does not get the volume."""
    settings = LoopfileSettings(directory=failing_disk.point)
    pool = LoopfileBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
    await pool.start()
    volume = await pool.create(CreateRequest("pvc-1", SizeRange(MIB)))
    record = failing_disk.point / "volumes/pvc-1/volume.json"
    new = volume.facts.with_(fs_type="made-up")
    with failing_disk.unwritable(record), pytest.raises(OutOfSpace):
        await pool.compare_and_set_facts(volume.id, volume.facts, new)
    assert not failing_disk.holds(b"made-up")
    await pool.attach(volume.id, {}, {})
    assert failing_disk.holds(b"made-up") == ((await pool.get(volume.id)).facts == new)
    assert failing_disk.holds(record.read_bytes())
    await pool.detach(volume.id)
    await pool.close()


@pytest.fixture(params=["same process", "restarted"])
async def again(request, node):
    """Come to the retry: in the process that saw the failure, or in one that knows nothing of it."""

    async def come():
        if request.param == "restarted":
            await node.restart()

    return come


@pytest.mark.gate("relied-on-is-stored")
@pytest.mark.parametrize("fact", [1, 2], ids=["formatting", "formatted"])
async def test_facts_whose_sync_failed_are_stored_before_a_guest_has_the_volume(node, again, scratch, fact):
    """A sync that failed, or a kill before it, leaves no fact that a power cut could take back from a guest.

    Else the disk would say "formatting" of a volume in use, and the next stage would run mkfs.
    """
    pvc = Volume(node, direct=True)
    await pvc.create()
    with failing(os, "fdatasync", fact), pytest.raises(HostError):
        await pvc.stage()
    await again()
    await pvc.stage()
    await pvc.publish()
    pvc.guest_writes()
    with after_power_cut(node, scratch) as pool:
        assert stored(pool, pvc).facts == await pvc.facts()
        assert stored(pool, pvc).facts.format is FormatState.FORMATTED
    await pvc.down()


async def test_a_volume_that_create_gave_exists(node, again, scratch):
    """The name it got was not on the disk yet: the retry, which finds the volume, sees to that."""
    pvc = Volume(node, direct=True)
    with failing(_linux, "sync_directory", 2), pytest.raises(HostError):
        await pvc.create()
    with after_power_cut(node, scratch) as pool:
        assert not (pool / "volumes" / pvc.name).exists(), "or this test proves nothing"
    await again()
    await pvc.create()
    with after_power_cut(node, scratch) as pool:
        assert stored(pool, pvc).csi_name == pvc.name
        assert (pool / "volumes" / pvc.name / "disk.img").stat().st_size == pvc.disk.stat().st_size


async def test_a_size_that_expand_gave_is_kept(node, again, scratch):
    """A file that grew in memory alone would cut the end off a filesystem that grew after it."""
    pvc = Volume(node, direct=True)
    await pvc.create()
    size = pvc.disk.stat().st_size + 64 * MIB
    backend = next(iter(node.driver.context.pools))
    volume_id = (await node.driver.provisioning.get(pvc.id)).volume.id
    with failing(os, "fsync", 1), pytest.raises(HostError):
        await (await backend.open()).expand(volume_id, size)
    await again()
    backend = next(iter(node.driver.context.pools))
    assert await (await backend.open()).expand(volume_id, size) == size
    with after_power_cut(node, scratch) as pool:
        assert (pool / "volumes" / pvc.name / "disk.img").stat().st_size == size
        assert stored(pool, pvc).size_bytes == size


async def test_a_deleted_volume_stays_deleted(node, again, scratch):
    """A volume that came back would be one that nobody knows."""
    pvc = Volume(node, direct=True)
    await pvc.create()
    volume_id = pvc.id
    with failing(_linux, "sync_directory", 1), pytest.raises(HostError):
        await pvc.delete()
    with after_power_cut(node, scratch) as pool:
        assert (pool / "volumes" / pvc.name).exists(), "or this test proves nothing"
    await again()
    await node.driver.provisioning.delete(volume_id)
    with after_power_cut(node, scratch) as pool:
        assert not (pool / "volumes" / pvc.name).exists()


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_facts_that_became_older_do_not_format_a_used_volume(node, fs_type):
    """Whatever made a pool forget: a filesystem that was mounted is no torn mkfs, whose UUID it has."""
    pvc = Volume(node, fs_type=fs_type)
    await pvc.up()
    pvc.write()
    await pvc.down()
    await pvc.set_facts(format=FormatState.FORMATTING)
    before = pvc.disk.read_bytes()
    with pytest.raises(DataLossAlarm, match="mounted since"):
        await pvc.stage()
    assert pvc.disk.read_bytes() == before
    await pvc.set_facts(format=FormatState.FORMATTED)
    await pvc.up()
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    await pvc.down()
