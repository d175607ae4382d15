"""NodeUnpublish and NodeUnstage: back from the path alone, and never through somebody's data."""

import pytest

from katacsi.errors import HostError, InvalidRequest, Precondition, VolumeInUse
from katacsi.host import mount
from katacsi.model import AccessType
from support import blockdevices
from support.node import held, mounts_at

WAYS = {
    "host": {},
    "direct": {"direct": True},
    "block": {"access": AccessType.BLOCK},
}


@pytest.fixture(params=WAYS)
def pvc(request, volume):
    """Make a volume that is published in each of the three ways."""
    return volume(**WAYS[request.param])


@pytest.mark.gate("absent-path-is-ok")
async def test_unpublish_and_unstage_again_are_success(node, pvc):
    """The kubelet repeats both until it hears of success; paths that are gone are success, too."""
    await pvc.up()
    for _ in range(2):
        await pvc.unpublish()
        assert not pvc.target.exists()
    pvc.target.parent.rmdir()
    await pvc.unpublish()
    for _ in range(2):
        await pvc.unstage()
    pvc.staging.rmdir()
    await pvc.unstage()
    assert node.devices == []
    await pvc.delete()
    await pvc.unpublish()
    await pvc.unstage()


@pytest.mark.gate("absent-path-is-ok")
@pytest.mark.parametrize("volume_id", ["", "nothing", "v1:default:zzzz:x", "v9:a:0a1b2c3d:b"])
async def test_an_id_that_was_never_given_out(node, volume_id):
    """No such volume can be published or staged here, so it is not."""
    await node.driver.unpublishing.unpublish(volume_id, str(node.pods / "x"))
    await node.driver.staging.unstage(volume_id, str(node.staging / "x"))


@pytest.mark.gate("unpublish-from-the-path-alone")
async def test_unpublish_from_the_path_alone(node, pvc):
    """Without any mark of this boot, what the kernel shows at the path is enough to clear it up."""
    await pvc.up()
    await node.restart_without_facts()
    await pvc.unpublish()
    assert not pvc.target.exists()
    assert not node.records.exists() or list(node.records.iterdir()) == []
    await pvc.unstage()
    assert node.devices == []
    assert mounts_at(pvc.staging) == 0


@pytest.mark.gate("unstage-refuses-while-published")
@pytest.mark.parametrize("facts", ["known", "lost"])
async def test_unstage_refuses_while_published(node, pvc, facts):
    """While a target, a guard or a record of the volume exists, its device stays where it is."""
    await pvc.up()
    device = pvc.device
    if facts == "lost":
        await node.restart_without_facts()
    with pytest.raises(VolumeInUse):
        await pvc.unstage()
    assert pvc.device == device
    assert mounts_at(pvc.target) == 1
    await pvc.unpublish()
    await pvc.unstage()


@pytest.mark.gate("unstage-refuses-while-published")
async def test_unstage_refuses_while_only_the_record_is_left(node, volume):
    """A record that outlived its guard and its fact still promises the device to a guest."""
    pvc = volume(direct=True)
    await pvc.up()
    mount.unmount(pvc.target)
    await node.restart_without_facts()
    with pytest.raises(VolumeInUse):
        await pvc.unstage()
    assert pvc.attached
    await pvc.unpublish()
    await pvc.unstage()
    assert list(node.records.iterdir()) == []


@pytest.mark.gate("unstage-refuses-while-held")
async def test_unstage_refuses_while_somebody_holds_the_device(pvc):
    """A leaked guest keeps its device, usable; when it is gone the retry succeeds."""
    await pvc.up()
    await pvc.unpublish()
    device = pvc.device
    # A host volume's staging mount goes first; who holds the device then is not the filesystem.
    with held(device):
        with pytest.raises(VolumeInUse, match="held"):
            await pvc.unstage()
        assert pvc.device == device
        assert device.open("rb").close() is None
    await pvc.unstage()
    assert not pvc.attached


async def test_unpublish_of_another_volume_s_target_is_refused(node, pvc, volume):
    """A mixed-up id does not take a volume away from its pod, facts or no facts."""
    other = volume("other")
    await other.create()
    await pvc.up()
    with pytest.raises(Precondition, match=pvc.id):
        await other.unpublish(pvc.target)
    assert mounts_at(pvc.target) == 1
    await pvc.publish()
    await pvc.down()


async def test_a_guard_of_another_volume_is_not_removed(node, volume):
    """Also without facts the guard says whose target it is."""
    other, pvc = volume("other"), volume(direct=True)
    await other.create()
    await pvc.up()
    await node.restart_without_facts()
    with pytest.raises(Precondition):
        await other.unpublish(pvc.target)
    assert mounts_at(pvc.target) == 1
    assert node.record(pvc.target) is not None
    await pvc.down()


async def test_unstage_of_another_volume_s_path_is_refused(volume):
    """The mount at a staging path is compared with the volume's device, not assumed to be it."""
    pvc, other = volume(), volume("other")
    await other.create()
    await pvc.up()
    await pvc.unpublish()
    with pytest.raises(VolumeInUse):
        await other.node.driver.staging.unstage(other.id, str(pvc.staging))
    assert mounts_at(pvc.staging) == 1
    await pvc.unstage()


@pytest.mark.parametrize("way", WAYS)
async def test_files_at_the_target_are_never_removed(volume, way):
    """A target that somebody filled after its mount went is left: unpublish never deletes data."""
    pvc = volume(**WAYS[way])
    await pvc.up()
    mount.unmount(pvc.target)
    if way == "block":
        pvc.target.write_text("somebody's")
        left = pvc.target
    else:
        (pvc.target / "data").write_text("somebody's")
        left = pvc.target / "data"
    with pytest.raises(HostError):
        await pvc.unpublish()
    assert left.read_text() == "somebody's"
    left.unlink()
    await pvc.unpublish()
    await pvc.unstage()


async def test_a_busy_target_stays_and_is_retried(node, volume):
    """A process that works in the target keeps it mounted; nothing is unmounted lazily."""
    pvc = volume()
    await pvc.up()
    pvc.write()
    with (pvc.target / "data").open("rb"):
        with pytest.raises(VolumeInUse, match="busy"):
            await pvc.unpublish()
        assert mounts_at(pvc.target) == 1
        with pytest.raises(VolumeInUse):
            await pvc.unstage()
    await pvc.down()


async def test_stacked_mounts_all_go(volume):
    """What an older driver stacked on the target is taken off, all of it."""
    pvc = volume()
    await pvc.up()
    blockdevices.run("mount", "--bind", str(pvc.staging), str(pvc.target))
    assert mounts_at(pvc.target) == 2
    await pvc.unpublish()
    assert mounts_at(pvc.target) == 0
    assert not pvc.target.exists()
    await pvc.unstage()


@pytest.mark.gate("restage-keeps-bytes")
async def test_data_is_freed_by_delete_only(pvc):
    """Neither unpublish nor unstage, however often, touches a byte of the volume."""
    await pvc.up()
    await pvc.down()
    before = pvc.disk.read_bytes()
    for _ in range(2):
        await pvc.unpublish()
        await pvc.unstage()
    assert pvc.disk.read_bytes() == before


async def test_another_node_s_volume_is_not_called_unstaged(node, volume):
    """An id of another pool storage is not this node's to confirm."""
    await volume().create()
    with pytest.raises(Precondition):
        await node.driver.staging.unstage("v1:default:00000000:pvc-1", str(node.staging / "x"))
    with pytest.raises(InvalidRequest):
        await node.driver.staging.unstage("v1:default:00000000:pvc-1", "x")


async def test_lost_facts_do_not_free_a_volume_that_a_pod_has(node, volume):
    """DeleteVolume and a full copy refuse a volume whose guard or record is there, whatever the facts say."""
    pvc = volume(direct=True)
    await pvc.up()
    await node.restart_without_facts()
    with pytest.raises(VolumeInUse):
        await pvc.delete()
    with pytest.raises(VolumeInUse):
        await node.driver.snapshots.create("snap", pvc.id, {})
