"""Teardown when the volume group is away: a device proves itself, and is removed by the kernel's own door."""

import contextlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from katacsi.backends.api import Attachment, PoolContext
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.errors import HostError, PoolUnavailable, VolumeInUse
from katacsi.host import dmrelease
from support.lvm_pools import THIN_POOL, clear, request, start, volume_group
from support.real_lvm import VG, lvcreate, run

SECONDS = 60


@pytest.fixture(scope="module", name="volume_group")
def _volume_group():
    yield from volume_group()


@pytest.fixture(name="start")
async def _start(volume_group):
    async for started in start(volume_group):
        yield started


def blind():
    """A pool that finds no group, as after a start without its disks; it is not started."""
    settings = LvmSettings(volume_group=VG, devices=("/dev/none",))
    return LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))


def mapped():
    """The devices of volumes, and their parts, that device-mapper has."""
    return {device.name for device in dmrelease.every() if "-kv--" in device.name}


@contextlib.contextmanager
def held_open(device):
    """Have a process hold a device open, as QEMU does: without a claim."""
    with device.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as holder:
        file.close()
        try:
            yield
        finally:
            holder.kill()


def node(name):
    """The node of a device."""
    return Path("/dev/mapper") / name


TYPES = [
    {"type": "linear"},
    {"type": "striped"},
    {"type": "raid1"},
    {"type": "raid5"},
    {"type": "thin", "thin-pool": THIN_POOL},
]


@pytest.mark.gate("teardown-needs-no-storage")
@pytest.mark.parametrize("parameters", TYPES, ids=lambda parameters: parameters["type"])
async def test_a_device_goes_without_its_group(start, parameters):
    """With its parts and its node, and no other one; LVM then finds the volume whole, and not active."""
    pool = await start()
    volume, other = [await pool.create(request(name, **parameters)) for name in ("a", "b-a")]
    device, others = [(await pool.attach(made.id, {}, {})).path for made in (volume, other)]
    with pytest.raises(PoolUnavailable):
        await blind().start()
    await blind().release(volume.id, Attachment(device))
    left = mapped()
    assert not [name for name in left if name.startswith(f"{VG}-kv--a")]
    assert others.name in left
    assert not device.exists()
    await blind().release(volume.id, Attachment(device))  # done already is success
    assert await pool.attached(volume.id) is None
    assert (await pool.attach(volume.id, {}, {})).path == device
    await clear(pool)


async def test_a_held_device_stays(start):
    """It is refused with its holder; QEMU's open is no claim."""
    pool = await start()
    volume = await pool.create(request("a"))
    device = (await pool.attach(volume.id, {}, {})).path
    with held_open(device), pytest.raises(VolumeInUse, match=rf"{device} is held by sleep"):
        await blind().release(volume.id, Attachment(device))
    assert device.exists()
    await blind().release(volume.id, Attachment(device))
    assert not device.exists()


async def test_what_is_not_provably_the_volumes_stays(start):
    """A stranger's LV with such a name, another volume, another group's: whatever the node remembers."""
    pool = await start()
    volume = await pool.create(request("a"))
    device = (await pool.attach(volume.id, {}, {})).path
    strangers = lvcreate("foo-kv-c", "--size", "4M")
    for volume_id in (
        replace(volume.id, name="c"),
        replace(volume.id, name="foo-kv-c"),
        replace(volume.id, pool_uid="00000000"),
    ):
        await blind().release(volume_id, Attachment(None))
    await blind().release(replace(volume.id, pool_uid="00000000"), Attachment(device))
    with pytest.raises(HostError, match="nothing proves that the device is its own"):
        await blind().release(replace(volume.id, name="c"), Attachment(node(f"{VG}-foo--kv--c")))
    assert device.exists()
    assert strangers.exists()
    run("lvremove", "--yes", f"{VG}/foo-kv-c")
