"""What a start finds left over from before."""

import json
import shutil

import pytest

from katacsi.directvolume.names import entry_name
from katacsi.host import mount
from support.node import live_go_sandbox, mounts_at
from support.shims import Agent


def vanish(pvc):
    """Remove a pod's folder under its volume, as the kubelet does when it is forced."""
    mount.unmount(pvc.target)
    shutil.rmtree(pvc.target.parent)


@pytest.mark.gate("start-removes-own-stale-records")
async def test_the_record_of_a_vanished_pod_is_removed(node, volume):
    """A pod that went while nobody listened leaves no record that promises its device to a namesake."""
    pvc, stays = volume(direct=True), volume("stays", direct=True)
    await pvc.up()
    await stays.up()
    await node.stop()
    vanish(pvc)
    await node.start()
    assert node.record(pvc.target) is None
    assert node.driver.context.marks.targets_of(pvc.id) == []
    assert node.record(stays.target) is not None
    assert mounts_at(stays.target) == 1
    await pvc.unpublish()
    await pvc.unstage()
    await pvc.delete()
    await stays.down()


@pytest.mark.gate("start-removes-own-stale-records")
async def test_a_live_sandbox_keeps_its_record(node, volume):
    """While a guest runs its record stays, whatever became of the pod's folder; it goes at the next start."""
    pvc = volume(direct=True)
    await pvc.up()
    await node.stop()
    with live_go_sandbox(node, pvc.target):
        vanish(pvc)
        await node.start()
        assert node.record(pvc.target) is not None
        assert len(node.driver.context.marks.targets_of(pvc.id)) == 1
        await node.stop()
    await node.start()
    assert node.record(pvc.target) is None
    await pvc.unstage()


@pytest.mark.gate("start-removes-own-stale-records")
async def test_a_guest_that_leaves_no_id_keeps_its_record(kata, node, volume):
    """A sandbox of runtime-rs is known by its container's bundle; one that cannot be read leaves a doubt."""
    pvc = volume(direct=True)
    await pvc.up()
    await node.stop()
    vanish(pvc)
    async with kata.pod("rust", node.records, str(pvc.target), Agent()):
        await node.start()
        assert node.record(pvc.target) is not None
        await node.stop()
    bundle = next(kata.bundles.rglob("config.json"))
    bundle.write_text("{")
    await node.start()
    assert node.record(pvc.target) is not None
    await node.stop()
    bundle.unlink()
    await node.start()
    assert node.record(pvc.target) is None
    await pvc.unstage()


@pytest.mark.gate("foreign-record-untouched")
async def test_others_records_are_not_even_read(node, volume):
    """A start touches no record that no fact names: of vanished pods, unreadable ones, ones like ours."""
    node.records.mkdir()
    foreign = {
        entry_name(
            "/gone/volumes/kubernetes.io~csi/x/mount"
        ): b'{"volume-type":"directvol","device":"/dev/loop0","fstype":"ext4"}',
        entry_name("/gone/e"): b'{"volume-type":"blk","device":"/gone/disk.img","fstype":"ext4"}',
        entry_name("/gone/torn"): b"{",
        "not base64!": b"",
    }
    for name, data in foreign.items():
        (node.records / name).mkdir()
        (node.records / name / "mountInfo.json").write_bytes(data)
        (node.records / name / "sandbox").touch()
    (node.records / "file").write_bytes(b"x")
    pvc = volume(direct=True)
    await pvc.up()
    await node.stop()
    vanish(pvc)
    before = {path: path.stat().st_mtime_ns for path in node.records.rglob("*") if path.is_file()}
    mine = node.record_file(pvc.target)
    await node.start()
    after = {path: path.stat().st_mtime_ns for path in node.records.rglob("*") if path.is_file()}
    assert after == {path: stamp for path, stamp in before.items() if path != mine}
    await pvc.unstage()


async def test_a_half_done_publish_is_left_for_its_retry(node, volume):
    """A start does not finish or undo a publish whose pod is there: its retry or unpublish comes."""
    pvc = volume(direct=True)
    await pvc.up()
    await node.stop()
    shutil.rmtree(node.record_file(pvc.target).parent)
    await node.start()
    assert mounts_at(pvc.target) == 1
    assert len(node.driver.context.marks.targets_of(pvc.id)) == 1
    await pvc.publish()
    assert node.record(pvc.target) is not None
    await pvc.down()


async def test_host_mounts_of_vanished_pods_are_left(node, volume):
    """Only records promise a device to strangers; a mount that a pod still has is for its unpublish."""
    pvc = volume()
    await pvc.up()
    await node.restart()
    assert mounts_at(pvc.target) == 1
    await pvc.down()


@pytest.mark.gate("start-removes-own-stale-records")
async def test_what_cannot_be_cleared_up_does_not_stop_the_start(node, volume):
    """A leftover that resists is logged; the driver serves all the same."""
    pvc, other = volume(direct=True), volume("other")
    await pvc.up()
    await node.stop()
    fact = next((node.state / "published").iterdir())
    moved = json.loads(fact.read_text()) | {"path": "/" + "x" * 200 + "/gone/mount"}
    fact.write_text(json.dumps(moved))
    await node.start()
    await other.up()
    await other.down()
    await pvc.unpublish()
