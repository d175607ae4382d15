"""NodeExpandVolume: never a size that the workload cannot use."""

import asyncio
import contextlib
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from grpclib.const import Status

from katacsi.backends.loopfile import factfile
from katacsi.errors import (
    HostError,
    NotFound,
    NotProvenSound,
    OutOfSpace,
    Precondition,
    SizeOutOfRange,
    VolumeInUse,
)
from katacsi.host import block, command, growth, holders, mount, superblock
from katacsi.model import AccessType
from katacsi.rpc.status import status_of
from support import blockdevices, killed
from support.node import MIB, held, live_go_sandbox, mounts_at, tools_run
from support.shims import Agent, Numbers


def usable(path):
    """Give the bytes of the filesystem that is mounted at a path."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize


def device_size(pvc):
    """Give the size that the volume's device has."""
    return block.size_bytes(pvc.device)


def has_sys_resource():
    """Whether this process may grow a mounted ext4."""
    effective = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]
    return bool(int(effective, 16) >> 24 & 1)


def is_full(pvc):
    """Whether the filesystem fills its device."""
    return growth.fills(pvc.filesystem, device_size(pvc))


# -- mounted on the host -------------------------------------------------------------------------------


@pytest.mark.parametrize(("fs_type", "more"), [("xfs", 64 * MIB), ("btrfs", 160 * MIB), ("ext4", 64 * MIB)])
async def test_a_mounted_filesystem_grows_under_its_pod(volume, fs_type, more):
    """A host volume grows online: the pod sees the size that the call reports, and keeps its files."""
    pvc = volume(fs_type=fs_type)
    await pvc.up()
    pvc.write()
    before = usable(pvc.target)
    try:
        size = await pvc.expand(pvc.size + more)
    except Precondition as error:
        if fs_type != "ext4" or "CAP_SYS_RESOURCE" not in error.message:
            raise
        assert usable(pvc.target) == before
        await pvc.down()
        pytest.skip(f"ext4 cannot grow while mounted here: {error.message}")
    assert size == pvc.size + more == device_size(pvc)
    assert usable(pvc.target) >= before + more - 16 * MIB
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    assert await pvc.expand(pvc.size + more) == size
    assert await pvc.expand(pvc.size + more, path=pvc.staging) == size
    await pvc.down()
    assert pvc.disk.stat().st_size == size


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("refused", ["read-only", "capability"])
async def test_a_growth_that_cannot_be_while_mounted_keeps_no_pod_from_starting(node, volume, refused):
    """The kubelet asks between publish and the containers: FAILED_PRECONDITION alone lets it start them."""
    pvc = volume()
    await pvc.up()
    pvc.write()
    before = usable(pvc.target)
    if refused == "read-only":
        blockdevices.run("mount", "-o", "remount,ro", pvc.staging)
    elif has_sys_resource():
        await pvc.down()
        pytest.skip("this process has CAP_SYS_RESOURCE, so nothing is refused")
    for _ in range(2):
        with pytest.raises(Precondition, match="old size") as refusal:
            await pvc.expand(4 * pvc.size)
        assert status_of(refusal.value) is Status.FAILED_PRECONDITION
    assert device_size(pvc) == 4 * pvc.size
    assert usable(pvc.target) == before
    assert (await pvc.facts()).pending_size == 4 * pvc.size
    # The next pod: stage, publish, expand, as the kubelet does it.
    await pvc.down()
    await pvc.stage()
    await pvc.publish()
    assert usable(pvc.target) > 3 * before
    assert await pvc.expand(4 * pvc.size) == 4 * pvc.size
    assert (pvc.target / "data").read_bytes() == b"the workload's bytes"
    assert (await pvc.facts()).pending_size == 0
    await pvc.down()


@pytest.mark.parametrize("way", [{"direct": True}, {"access": AccessType.BLOCK}], ids=["direct", "block"])
async def test_a_growth_that_a_crash_cut_short_is_finished_by_its_pool(node, volume, way):
    """The volume has its size already and the pool has not stored it: the retry still goes to the pool."""
    pvc = volume(**way)
    await pvc.up()
    os.truncate(pvc.disk, 2 * pvc.size)
    await node.restart()
    assert await pvc.expand(2 * pvc.size) == 2 * pvc.size == device_size(pvc)
    stored = factfile.decode((pvc.disk.parent / "volume.json").read_bytes())
    assert json.loads(stored.line)["size_bytes"] == 2 * pvc.size
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
async def test_a_growth_that_fails_is_no_success(volume, monkeypatch):
    """When the filesystem cannot be grown the call fails, however large the device; a retry finishes it."""
    pvc = volume(fs_type="xfs")
    await pvc.up()
    before = usable(pvc.target)

    def fails(*_):
        raise HostError("the kernel refused")

    with monkeypatch.context() as patch:
        patch.setattr(growth, "grow_mounted", fails)
        with pytest.raises(HostError, match="refused"):
            await pvc.expand(pvc.size + 64 * MIB)
    assert device_size(pvc) == pvc.size + 64 * MIB
    assert usable(pvc.target) == before
    assert await pvc.expand(pvc.size + 64 * MIB) == pvc.size + 64 * MIB
    assert usable(pvc.target) > before
    await pvc.down()


async def test_a_staged_volume_grows_before_its_pod(volume):
    """Between stage and publish an ext4 grows in userspace, an xfs at its mount."""
    for fs_type in ("ext4", "xfs"):
        pvc = volume(f"pvc-{fs_type}", fs_type=fs_type)
        await pvc.create()
        await pvc.stage()
        size = await pvc.expand(pvc.size + 32 * MIB, path=pvc.staging)
        assert size == pvc.size + 32 * MIB == device_size(pvc)
        assert is_full(pvc) is (fs_type == "ext4")
        await pvc.publish()
        assert usable(pvc.target) > size - 80 * MIB  # without the log; before it was 32 MiB less
        await pvc.down()


async def test_a_staged_volume_that_lost_its_device_grows(node, volume):
    """A reboot between two calls is no reason to fail: the file grows, the stage does the rest."""
    pvc = volume()
    await pvc.create()
    await pvc.stage()
    node.clear()
    assert await pvc.expand(pvc.size + 32 * MIB, path=pvc.staging) == pvc.size + 32 * MIB
    await pvc.stage()
    assert is_full(pvc)
    await pvc.unstage()


# -- handed to a guest ---------------------------------------------------------------------------------


@pytest.mark.gate("expand-never-lies")
async def test_a_direct_volume_that_nobody_holds_grows(node, volume):
    """Before its guest starts, a direct volume grows in userspace, and its record is back, true."""
    pvc = volume(direct=True, mount_flags=("noatime",), mount_group="4711")
    await pvc.up()
    pvc.guest_writes()
    before = node.record(pvc.target)
    assert await pvc.expand(pvc.size + 64 * MIB) == pvc.size + 64 * MIB
    assert device_size(pvc) == pvc.size + 64 * MIB
    assert is_full(pvc)
    assert node.record(pvc.target) == before | {"device": str(pvc.device)}
    assert mounts_at(pvc.target) == 1
    assert (await pvc.facts()).pending_size == 0
    assert pvc.guest_reads() == b"the guest's bytes"
    await node.restart()
    await pvc.publish()
    assert node.record(pvc.target)["device"] == str(pvc.device)
    await pvc.down()


async def test_who_only_looks_into_a_device_keeps_no_filesystem_small(volume, monkeypatch):
    """The next stage grows it although udev, or another's `losetup --find`, has it open for a moment."""
    pvc = volume(direct=True)
    await pvc.up()
    wanted = pvc.size + 64 * MIB
    with held(pvc.device), pytest.raises(Precondition):
        await pvc.expand(wanted)
    await pvc.unpublish()
    with contextlib.ExitStack() as visit:
        visit.enter_context(held(pvc.device))
        monkeypatch.setattr(holders, "time", SimpleNamespace(sleep=lambda _: visit.close()))
        await pvc.stage()
        assert is_full(pvc)
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("how", ["descriptor", "sandbox"])
async def test_a_volume_that_a_guest_holds_is_refused_and_grows_later(node, volume, how):
    """While a guest holds the device the growth is pending: the next stage finishes it, in userspace."""
    pvc = volume(direct=True)
    await pvc.up()
    pvc.guest_writes()
    before, small = node.record(pvc.target), pvc.filesystem.size_bytes
    holder = held(pvc.device) if how == "descriptor" else live_go_sandbox(node, pvc.target)
    wanted = pvc.size + 64 * MIB
    with holder:
        for _ in range(2):
            with tools_run() as tools, pytest.raises(Precondition, match="restart the pod"):
                await pvc.expand(wanted)
            assert not {"e2fsck", "resize2fs"} & set(tools)
            assert pvc.filesystem.size_bytes == small
            assert node.record(pvc.target) == before
            assert (await pvc.facts()).pending_size == wanted
            assert device_size(pvc) == wanted
        stats = await pvc.stats()
        assert "restarted" in stats.condition.message
        assert not stats.condition.abnormal
        await node.restart()
        with tools_run() as tools:
            await pvc.stage()
            await pvc.publish()
        assert not {"e2fsck", "resize2fs"} & set(tools)
    await pvc.down()
    await pvc.stage()
    assert is_full(pvc)
    assert (await pvc.facts()).pending_size == 0
    await pvc.publish()
    assert await pvc.expand(wanted) == wanted
    assert pvc.guest_reads() == b"the guest's bytes"
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
async def test_a_larger_wish_while_a_growth_is_pending(node, volume):
    """A second wish while a guest holds the device grows the device only: its filesystem is the guest's."""
    pvc = volume(direct=True)
    await pvc.up()
    small = pvc.filesystem.size_bytes
    with held(pvc.device):
        for more in (32 * MIB, 64 * MIB):
            with tools_run() as tools, pytest.raises(Precondition, match="restart the pod"):
                await pvc.expand(pvc.size + more)
            assert not {"e2fsck", "resize2fs"} & set(tools)
            assert (await pvc.facts()).pending_size == pvc.size + more
    assert pvc.filesystem.size_bytes == small
    # The guest is gone and the pod is not: now the same call can do it.
    assert await pvc.expand(pvc.size + 64 * MIB) == pvc.size + 64 * MIB
    assert is_full(pvc)
    assert (await pvc.facts()).pending_size == 0
    assert node.record(pvc.target)["device"] == str(pvc.device)
    await pvc.down()


async def test_a_volume_that_has_its_size_is_not_disturbed(node, volume):
    """The kubelet repeats the call while the guest runs: nothing is taken away, and it succeeds."""
    pvc = volume(direct=True)
    await pvc.up()
    await pvc.expand(pvc.size + 32 * MIB)
    stamp = node.record_file(pvc.target).stat().st_mtime_ns
    with held(pvc.device), tools_run() as tools:
        assert await pvc.expand(pvc.size + 32 * MIB) == pvc.size + 32 * MIB
        assert await pvc.expand(0) == pvc.size + 32 * MIB
    assert tools == []
    assert node.record_file(pvc.target).stat().st_mtime_ns == stamp
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("at", ["target", "staging", "staged-only"])
async def test_a_guest_s_xfs_is_refused_before_its_device_grows(node, volume, at):
    """What only a host mount could grow is refused by the setting's name, and nothing has changed."""
    pvc = volume(direct=True, fs_type="xfs")
    await pvc.up()
    pvc.guest_writes()
    if at == "staged-only":
        await pvc.unpublish()
    before = node.record(pvc.target)
    path = pvc.target if at == "target" else pvc.staging
    with pytest.raises(Precondition, match="guest_filesystems"):
        await pvc.expand(pvc.size + 64 * MIB, path=path)
    assert device_size(pvc) == pvc.size == pvc.disk.stat().st_size
    assert node.record(pvc.target) == before
    assert (await pvc.facts()).pending_size == 0
    assert await pvc.expand(pvc.size, path=path) == pvc.size
    await (pvc.unstage() if at == "staged-only" else pvc.down())


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("trusted", ["read-only-guest", "allowed"])
async def test_a_direct_xfs_that_the_host_may_mount_grows(node, volume, trusted):
    """An xfs that no guest wrote, or whose guests are trusted, grows by a mount of the host's."""
    pvc = volume(direct=True, fs_type="xfs")
    if trusted == "allowed":
        await node.restart(guest_filesystems="allow")
        await pvc.up()
        pvc.guest_writes()
    else:
        await pvc.up(read_only=True)
    record = node.record(pvc.target)
    assert await pvc.expand(pvc.size + 64 * MIB) == pvc.size + 64 * MIB
    assert is_full(pvc)
    assert mounts_at(pvc.staging) == 0
    assert node.record(pvc.target) == record | {"device": str(pvc.device)}
    assert block.is_read_only(pvc.device) is (trusted == "read-only-guest")
    if trusted == "allowed":
        assert pvc.guest_reads() == b"the guest's bytes"
    await pvc.down()


@pytest.mark.gate("host-never-mounts-what-a-guest-wrote")
async def test_a_guest_s_own_filesystem_is_not_mounted_to_grow(volume, monkeypatch):
    """A guest that made an xfs of its ext4 volume does not make the host's kernel mount it."""
    pvc = volume(direct=True, size=304 * MIB)
    await pvc.up()
    blockdevices.run("mkfs.xfs", "-f", "-q", pvc.device)

    def never(*_, **__):
        pytest.fail("the host mounted what a guest made")

    monkeypatch.setattr(mount, "mount_filesystem", never)
    with pytest.raises(Precondition, match="guest_filesystems"):
        await pvc.expand(pvc.size + 64 * MIB)
    assert device_size(pvc) == pvc.size
    assert pvc.node.record(pvc.target)["device"] == str(pvc.device)
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
@pytest.mark.gate("one-device-one-guest")
async def test_a_guest_that_outlived_its_pod_keeps_the_device(node, volume):
    """While somebody holds the device, no next pod gets it, and its filesystem is not touched."""
    pvc = volume(direct=True)
    await pvc.up()
    small = pvc.filesystem.size_bytes
    with held(pvc.device):
        with pytest.raises(Precondition):
            await pvc.expand(pvc.size + 64 * MIB)
        await pvc.unpublish()
        with tools_run() as tools:
            for call in (pvc.stage, pvc.publish):
                with pytest.raises(VolumeInUse, match=r"sleep \(process"):
                    await call()
        assert not {"e2fsck", "resize2fs"} & set(tools)
        assert pvc.filesystem.size_bytes == small
        assert (await pvc.facts()).pending_size == pvc.size + 64 * MIB
    await pvc.publish()
    assert is_full(pvc)
    assert (await pvc.facts()).pending_size == 0
    await pvc.down()


async def test_a_read_only_guest_s_ext4_grows(node, volume):
    """The record of a read-only guest is back, and so is the device's read-only flag."""
    pvc = volume(direct=True)
    await pvc.up(read_only=True)
    assert await pvc.expand(pvc.size + 32 * MIB) == pvc.size + 32 * MIB
    assert is_full(pvc)
    assert block.is_read_only(pvc.device)
    assert node.record(pvc.target)["options"] == ["ro"]
    await pvc.down()


async def test_a_failed_userspace_growth_puts_the_record_back(node, volume, monkeypatch):
    """Whatever goes wrong while the record is away, the pod can start afterwards."""
    pvc = volume(direct=True)
    await pvc.up()
    before = node.record(pvc.target)

    def fails(*_, **__):
        raise HostError("resize2fs: killed")

    with monkeypatch.context() as patch:
        patch.setattr(growth, "grow_offline", fails)
        with pytest.raises(HostError, match="killed"):
            await pvc.expand(pvc.size + 32 * MIB)
    assert node.record(pvc.target) == before | {"device": str(pvc.device)}
    assert await pvc.expand(pvc.size + 32 * MIB) == pvc.size + 32 * MIB
    assert is_full(pvc)
    await pvc.down()


def cut_off(monkeypatch):
    """Kill the next resize2fs midway, and have no tool run afterwards, as without a driver."""
    run, dead = command.run, []

    def cut(argv, **how):
        if dead:
            raise command.CommandError(argv[0], -9, "killed")
        if argv[0] != "resize2fs":
            return run(argv, **how)
        dead.append(killed.killed_at_write(argv, 20))
        assert dead == [True]
        raise command.CommandError("resize2fs", -9, "killed")

    monkeypatch.setattr(command, "run", cut)


@pytest.mark.gate("a-cut-off-growth-mends-itself")
@pytest.mark.parametrize("then", ["expand", "publish", "pod anew"])
async def test_a_growth_that_is_cut_off_reaches_no_pod_before_it_is_mended(node, volume, monkeypatch, then):
    """No record names what is not proven sound; whatever call comes next mends it, with its files."""
    pvc = volume(direct=True)
    await pvc.up()
    pvc.guest_writes()
    with monkeypatch.context() as patch:
        cut_off(patch)
        with pytest.raises(NotProvenSound, match="nobody may mount it"):
            await pvc.expand(pvc.size + 512 * MIB)
        assert node.record(pvc.target) is None
        await node.restart()
        with pytest.raises(NotProvenSound):
            await pvc.publish()
        assert node.record(pvc.target) is None
    assert (await pvc.facts()).growing == pvc.size + 512 * MIB
    if then == "pod anew":
        await pvc.unpublish()
        await pvc.unstage()
        await pvc.stage()
    if then != "expand":
        await pvc.publish()
    assert await pvc.expand(pvc.size + 512 * MIB) == pvc.size + 512 * MIB
    assert node.record(pvc.target)["device"] == str(pvc.device)
    assert is_full(pvc)
    assert (await pvc.facts()).growing == 0
    assert pvc.guest_reads() == b"the guest's bytes"
    await pvc.down()


# -- a guest whose runtime is told ---------------------------------------------------------------------


class Guest(Agent):
    """A guest that has the volume; `able` to grow its filesystem, or one that only says so."""

    def __init__(self, pvc, *, able=True):
        super().__init__(stats=self._count, resize=self._grow if able else lambda *_: None)
        self._pvc = pvc

    def _count(self, _):
        with self._pvc.guest() as mounted:
            status = os.statvfs(mounted)
        unit = status.f_frsize
        return Numbers(status.f_blocks * unit, status.f_bfree * unit, status.f_files, status.f_ffree)

    def _grow(self, _, size_bytes):
        assert block.size_bytes(self._pvc.device) == size_bytes
        if self._pvc.fs_type == "xfs":
            with self._pvc.guest() as mounted:
                blockdevices.run("xfs_growfs", mounted)
        else:  # where the machine withholds online growth, as most do
            blockdevices.run("e2fsck", "-fp", self._pvc.device)
            blockdevices.run("resize2fs", self._pvc.device)


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("runtime", ["go", "rust"])
@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_runtime_that_can_grow_its_guest(kata, node, volume, runtime, fs_type):
    """It is told, its guest counts the new size, and the call succeeds while the pod runs; so does a repeat.

    That holds for xfs too: it is the guest that grows it, not the host.
    """
    pvc = volume(direct=True, fs_type=fs_type)
    await pvc.up()
    pvc.guest_writes()
    record, wanted = node.record(pvc.target), pvc.size + 64 * MIB
    async with kata.pod(runtime, node.records, str(pvc.target), Guest(pvc)):
        with tools_run() as tools:
            assert await pvc.expand(wanted) == wanted
            assert await pvc.expand(wanted) == wanted
        assert tools == []
        assert (await pvc.stats()).usage[0].total > wanted - 80 * MIB
    assert device_size(pvc) == wanted
    assert is_full(pvc)
    assert node.record(pvc.target) == record
    assert (await pvc.facts()).pending_size == 0
    assert pvc.guest_reads() == b"the guest's bytes"
    await pvc.down()


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("runtime", ["go", "rust"])
@pytest.mark.parametrize("does", ["refuses", "lies", "hangs"])
async def test_a_runtime_that_does_not_grow_its_guest(kata, node, volume, runtime, does):
    """Stock Kata refuses; one that says yes is held against what its guest counts; one that hangs is left.

    Nobody holds the device here, and still a live sandbox keeps the host's tools away: it may open it again.
    """
    pvc = volume(direct=True)
    await pvc.up()
    pvc.guest_writes()
    before, small, wanted = node.record(pvc.target), pvc.filesystem.size_bytes, pvc.size + 64 * MIB
    agent = Guest(pvc, able=False)
    if does == "refuses":
        agent.resize = Agent().resize
    elif does == "hangs":
        agent.resize = lambda *_: asyncio.sleep(60)
    async with kata.pod(runtime, node.records, str(pvc.target), agent), asyncio.timeout(20):
        with tools_run() as tools, pytest.raises(Precondition, match=r"sandbox pod.*restart the pod"):
            await pvc.expand(wanted)
        assert tools == []
        assert [call[0] for call in agent.asked].count("resize") == 1
        assert node.record(pvc.target) == before
        assert pvc.filesystem.size_bytes == small
        assert (await pvc.facts()).pending_size == wanted
        usage = (await pvc.stats()).usage
        assert usage[0].total < small
    await pvc.down()
    await pvc.stage()
    assert is_full(pvc)
    await pvc.unstage()


@pytest.mark.gate("expand-never-lies")
@pytest.mark.parametrize("runtime", ["go", "rust"])
async def test_a_guest_s_xfs_is_refused_while_its_runtime_cannot(kata, node, volume, runtime):
    """Stock Kata is asked first, with the size that is there; then nothing has grown."""
    pvc = volume(direct=True, fs_type="xfs")
    await pvc.up()
    pvc.guest_writes()
    agent = Guest(pvc)
    agent.resize = Agent().resize
    async with kata.pod(runtime, node.records, str(pvc.target), agent):
        with pytest.raises(Precondition, match="guest_filesystems"):
            await pvc.expand(pvc.size + 64 * MIB)
    assert agent.asked[-1][2:] == (pvc.size,)
    assert device_size(pvc) == pvc.size == pvc.disk.stat().st_size
    assert (await pvc.facts()).pending_size == 0
    await pvc.down()


# -- any volume ----------------------------------------------------------------------------------------


async def test_a_volume_never_shrinks(volume):
    """A smaller wish is met already; a limit below what is there is refused."""
    pvc = volume()
    await pvc.up()
    assert await pvc.expand(8 * MIB) == pvc.size
    with pytest.raises(SizeOutOfRange, match="shrink"):
        await pvc.expand(4 * MIB, limit=8 * MIB)
    assert device_size(pvc) == pvc.size
    await pvc.down()


@pytest.mark.gate("sizes-round-up")
async def test_a_grown_size_is_rounded_up(volume):
    """The reported size is at least the wish, and what the device has."""
    pvc = volume(access=AccessType.BLOCK)
    await pvc.up()
    size = await pvc.expand(pvc.size + 1)
    assert size == pvc.size + 4096 == device_size(pvc)
    await pvc.down()


async def test_a_pool_without_room_is_no_success(volume):
    """The size stays as it was, and the volume usable."""
    pvc = volume(direct=True)
    await pvc.up()
    before = pvc.node.record(pvc.target)
    with pytest.raises(OutOfSpace):
        await pvc.expand(1 << 55)
    assert device_size(pvc) == pvc.size
    assert pvc.node.record(pvc.target) == before | {"device": str(pvc.device)}
    assert (await pvc.facts()).pending_size == 0
    await pvc.down()


async def test_a_path_that_is_not_the_volume_s(node, volume):
    """Only a volume's own paths lead to it."""
    pvc, other = volume(), volume("other")
    await other.up()
    await pvc.up()
    for path in (node.pods, other.target, other.staging, node.pods / "nothing"):
        with pytest.raises(NotFound):
            await pvc.expand(pvc.size + MIB, path=path)
    pvc.id, mine = "v1:default:00000000:pvc-1", pvc.id
    with pytest.raises(NotFound):
        await pvc.expand(pvc.size + MIB)
    pvc.id = "nothing"
    with pytest.raises(NotFound):
        await pvc.expand(pvc.size + MIB)
    pvc.id = mine
    assert device_size(pvc) == pvc.size
    await pvc.down()
    await other.down()


async def test_the_volume_s_size_is_kept(node, volume):
    """A grown volume has its size after a restart, in lists, and for the next create of its name."""
    pvc = volume(direct=True)
    await pvc.up()
    size = await pvc.expand(pvc.size + 32 * MIB)
    await node.restart()
    assert (await node.driver.provisioning.get(pvc.id)).volume.size_bytes == size
    assert (await pvc.create()).volume.size_bytes == size
    await pvc.down()
    assert superblock.read(pvc.disk).size_bytes > size - MIB
