"""Creating, listing and deleting volumes."""

import json
from functools import partial

import pytest

from katacsi.backends.api import FormatState
from katacsi.errors import (
    AlreadyExists,
    InvalidPageToken,
    InvalidRequest,
    NotFound,
    OutOfSpace,
    Precondition,
    SizeOutOfRange,
    VolumeInUse,
)
from katacsi.model import AccessMode, AccessType, SizeRange, Topology, VolumeId, storage_name
from katacsi.volumes.requests import GetCapacity, ListSnapshots, ValidateCapabilities
from support.node import MIB, Volume, serving

HERE = Topology({"topology.local.katacsi.io/node": "node-1"})
ELSEWHERE = Topology({"topology.local.katacsi.io/node": "node-2"})
GIB = 1 << 30


@pytest.mark.gate("create-twice-equal-context")
async def test_a_repeated_create_gives_the_same_volume(node, volume):
    """The same name and wishes give the same volume with an equal context, also after a restart."""
    pvc = volume(
        direct=True,
        parameters={"katacsi.io/fs-group-change-policy": "Always", "katacsi.io/mkfs-options": "-m 1"},
    )
    first = await pvc.create()
    assert first.context == {
        "katacsi.io/direct": "true",
        "katacsi.io/fs-group-change-policy": "Always",
        "katacsi.io/mkfs-options": "-m 1",
    }
    assert await pvc.create() == first
    await node.restart()
    assert await pvc.create() == first
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1


async def test_what_sidecars_inject_does_not_change_a_create(volume):
    """A retry by another provisioner, with other injected keys, is still the same call."""
    pvc = volume(parameters={"csi.storage.k8s.io/pvc/name": "data"})
    first = await pvc.create()
    pvc.parameters = {"storage.kubernetes.io/csiProvisionerIdentity": "7", "csi.storage.k8s.io/pv/name": "x"}
    assert await pvc.create() == first


@pytest.mark.parametrize(
    "other",
    [
        {"size": 32 * MIB},
        {"size": 8 * MIB, "limit": 12 * MIB},
        {"parameters": {"loopfile.katacsi.io/allocation": "thick"}},
        {"direct": True},
        {"parameters": {"katacsi.io/mkfs-options": "-m 1"}},
        {"fs_type": "btrfs", "size": 16 * MIB, "expected": SizeOutOfRange},
        {"fs_type": "btrfs", "size": 128 * MIB},
        {"access": AccessType.BLOCK},
    ],
    ids=["larger", "smaller", "thick", "direct", "mkfs-options", "too-small", "filesystem", "block"],
)
async def test_a_name_is_taken_by_what_was_asked_first(volume, other):
    """The same name with another size, filesystem or StorageClass is refused, and the volume stays."""
    first = await volume(
        size=other["size"] if other.get("fs_type") and "expected" not in other else 16 * MIB
    ).create()
    expected = other.pop("expected", AlreadyExists)
    with pytest.raises(expected):
        await volume(**{"size": 16 * MIB, **other}).create()
    assert (await volume().node.driver.provisioning.get(str(first.volume.id))).volume == first.volume


async def test_a_compatible_size_is_the_same_volume(volume):
    """A retry that accepts the size there is gets it."""
    first = await volume(size=16 * MIB).create()
    assert await volume(size=10 * MIB, limit=20 * MIB).create() == first


@pytest.mark.gate("sizes-round-up")
@pytest.mark.parametrize("wish", [int(1.5 * GIB), 16 * MIB + 1, 16 * MIB - 1])
async def test_a_volume_is_never_smaller_than_asked(volume, wish):
    """Sizes are rounded up, by less than a sector: 1.5Gi is 1.5Gi."""
    view = await volume(size=wish).create()
    assert wish <= view.volume.size_bytes < wish + 4096


@pytest.mark.parametrize(
    ("size", "fs_type", "error"),
    [
        (SizeRange(16 * MIB, 8 * MIB), "ext4", SizeOutOfRange),
        (SizeRange(16 * MIB + 1, 16 * MIB + 2), "ext4", SizeOutOfRange),
        (SizeRange(299 * MIB), "xfs", SizeOutOfRange),
        (SizeRange(0, 299 * MIB), "xfs", SizeOutOfRange),
        (SizeRange(64 * MIB), "btrfs", SizeOutOfRange),
        (SizeRange(1 << 60), "ext4", OutOfSpace),
    ],
    ids=[
        "limit-below-required",
        "no-sector-fits",
        "xfs-too-small",
        "xfs-limit-too-small",
        "btrfs-too-small",
        "exbibyte",
    ],
)
async def test_a_size_that_cannot_be_had(node, volume, size, fs_type, error):
    """What no volume could be is refused at once, and nothing is left of the try."""
    with pytest.raises(error):
        await volume(fs_type=fs_type).create(size=size)
    assert (await node.driver.provisioning.list("", 0)).volumes == ()
    assert list((node.pool / "volumes").iterdir()) == []


async def test_a_size_that_was_not_named(node, volume):
    """No wish gives the default, at least what the filesystem needs, at most the limit."""
    await node.restart(default_volume_size=20 * MIB)
    assert (await volume("a").create(size=SizeRange())).volume.size_bytes == 20 * MIB
    assert (await volume("b", "xfs").create(size=SizeRange())).volume.size_bytes == 300 * MIB
    assert (await volume("c").create(size=SizeRange(0, 12 * MIB))).volume.size_bytes == 12 * MIB


async def test_topology_decides_where(volume):
    """A volume is made here when here is among the choices; else another node's provisioner makes it."""
    for choice in ((HERE,), (ELSEWHERE, HERE), (Topology({}),)):
        assert (await volume().create(requisite=choice)).topology == (HERE,)
    with pytest.raises(OutOfSpace, match="another node"):
        await volume("pvc-2").create(requisite=(ELSEWHERE,))
    with pytest.raises(OutOfSpace):
        await volume("pvc-2").create(requisite=(Topology({"topology.kubernetes.io/zone": "a"}),))


@pytest.mark.gate("volume-id-in-unsafe-characters")
@pytest.mark.parametrize(
    "name",
    [
        "$(touch owned)",
        "a;b|c&d",
        "`id`",
        "../../../etc/passwd",
        "a/b",
        "-rf",
        "ü" * 64,
        "ÄÖ 漢字\n",
        "'\"\\",
        "a" * 128,
        "h-" + "0" * 32,
    ],
    ids=[
        "substitution",
        "list",
        "backquotes",
        "climbs",
        "slash",
        "option",
        "128-bytes",
        "utf-8",
        "quotes",
        "long",
        "hash-like",
    ],
)
async def test_an_unsafe_name_lives_a_whole_life(node, volume, name):
    """A volume of any name is made, formatted, published, found and deleted; its folder is a plain name."""
    pvc = volume(name)
    view = await pvc.create()
    assert view.volume.csi_name == name
    assert [folder.name for folder in (node.pool / "volumes").iterdir()] == [storage_name(name)]
    assert str(VolumeId.parse(pvc.id)) == pvc.id
    await pvc.stage()
    await pvc.publish()
    pvc.write()
    await pvc.down()
    assert await pvc.create() == await node.driver.provisioning.get(pvc.id)
    await pvc.delete()
    assert list((node.pool / "volumes").iterdir()) == []


@pytest.mark.gate("unknown-parameter-is-refused-at-create")
@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"katacsi.io/dirct": "true"}, "parameters[katacsi.io/dirct]"),
        ({"type": "thin"}, "parameters[type]"),
        ({"katacsi.io/direct": "yes"}, "parameters[katacsi.io/direct]"),
        ({"lvm.katacsi.io/type": "thin"}, "parameters[lvm.katacsi.io/…]"),
        ({"loopfile.katacsi.io/allocate": "thick"}, "parameters[loopfile.katacsi.io/allocate]"),
        ({"loopfile.katacsi.io/allocation": "thin"}, "loopfile.katacsi.io/allocation"),
        ({"katacsi.io/mkfs-options": "-F"}, "parameters[katacsi.io/mkfs-options]"),
        ({"katacsi.io/fs-group-change-policy": "Sometimes"}, "parameters[katacsi.io/fs-group-change-policy]"),
    ],
)
async def test_a_parameter_that_means_nothing_is_refused(node, volume, parameters, names):
    """A misspelt key or value of a StorageClass fails at CreateVolume, by its key; no volume is made."""
    with pytest.raises(InvalidRequest) as refusal:
        await volume(parameters=parameters).create()
    assert names in refusal.value.message
    assert list((node.pool / "volumes").iterdir()) == []


@pytest.mark.parametrize(
    "capability",
    [
        {"fs_type": "ntfs"},
        {"fs_type": "btrfs", "size": 128 * MIB, "direct": True},
        {"mode": AccessMode.MULTI_NODE_MULTI_WRITER},
    ],
    ids=["ntfs", "btrfs-direct", "many-nodes"],
)
async def test_a_capability_that_no_volume_has(node, volume, capability):
    """A filesystem or mode that cannot work is refused before anything is made."""
    with pytest.raises(InvalidRequest, match="volume_capability"):
        await volume(**{"size": 16 * MIB} | capability).create()
    assert list((node.pool / "volumes").iterdir()) == []


async def test_a_new_volume_is_unformatted_and_blank(volume):
    """Nothing of a former tenant is in it: its file has no data at all."""
    pvc = volume()
    view = await pvc.create()
    assert view.volume.facts.format is FormatState.UNFORMATTED
    assert pvc.disk.stat().st_blocks == 0


@pytest.mark.gate("delete-frees-storage")
async def test_delete_frees_the_bytes(node, volume):
    """After DeleteVolume the pool has its bytes back and nothing of the volume; again is success."""
    before = await node.driver.provisioning.capacity(GetCapacity())
    pvc = volume(parameters={"loopfile.katacsi.io/allocation": "thick"})
    await pvc.up()
    pvc.write()
    await pvc.down()
    assert (await node.driver.provisioning.capacity(GetCapacity())).available_bytes < before.available_bytes
    for _ in range(2):
        await pvc.delete()
        assert list((node.pool / "volumes").iterdir()) == []
        assert node.devices == []
    with pytest.raises(NotFound):
        await node.driver.provisioning.get(pvc.id)


async def test_a_used_volume_is_not_deleted(volume):
    """While it is staged or published its bytes stay, and the message says where it is used."""
    pvc = volume()
    await pvc.up()
    pvc.write()
    with pytest.raises(VolumeInUse, match="mount"):
        await pvc.delete()
    assert (pvc.target / "data").exists()
    await pvc.unpublish()
    with pytest.raises(VolumeInUse, match="staging"):
        await pvc.delete()
    assert pvc.disk.exists()
    await pvc.unstage()
    await pvc.delete()


async def test_a_device_that_a_process_holds_is_not_deleted(node, volume):
    """Also when the facts of this boot were lost, a mounted volume is not deleted under its pod."""
    pvc = volume()
    await pvc.up()
    await node.restart_without_facts()
    with pytest.raises(VolumeInUse):
        await pvc.delete()
    assert pvc.disk.exists()
    await pvc.down()


@pytest.mark.parametrize("volume_id", ["", "pvc-1", "v2:default:00000000:x", "../../etc"])
async def test_deleting_what_was_never_made_is_success(node, volume_id):
    """An id that this driver never gave out names nothing, so it is deleted already."""
    await node.driver.provisioning.delete(volume_id)


async def test_another_node_s_volume_is_not_called_deleted(node, volume):
    """A volume of another pool storage may well exist: deleting it here is refused, not acknowledged."""
    await volume().create()
    for foreign in ("v1:default:00000000:pvc-1", "v1:other:00000000:pvc-1"):
        with pytest.raises(Precondition):
            await node.driver.provisioning.delete(foreign)
        with pytest.raises(NotFound):
            await node.driver.provisioning.get(foreign)
    assert len((await node.driver.provisioning.list("", 0)).volumes) == 1


async def test_the_list_comes_in_pages(node, volume):
    """All volumes of all pools come once, in pages of the size asked for; a strange token is refused."""
    made = {str((await volume(f"pvc-{i}").create()).volume.id) for i in range(5)}
    seen, token = [], ""
    while True:
        page = await node.driver.provisioning.list(token, 2)
        assert len(page.volumes) <= 2
        seen += [str(view.volume.id) for view in page.volumes]
        token = page.next_token
        if not token:
            break
    assert sorted(seen) == sorted(made)
    for strange in ("x", "ZGVmYXVsdDouLi8uLg==", "%%%", "é"):
        with pytest.raises(InvalidPageToken):
            await node.driver.provisioning.list(strange, 2)


async def test_capacity_is_that_of_the_pool_here(node, volume):
    """What a new volume could have is told; on another node there is nothing of this pool."""
    node.settings["pools"]["default"]["quota"] = "256Mi"
    await node.restart()
    here = await node.driver.provisioning.capacity(GetCapacity(topology=HERE))
    assert here.available_bytes >= here.maximum_volume_bytes > 0
    elsewhere = await node.driver.provisioning.capacity(GetCapacity(topology=ELSEWHERE))
    assert (elsewhere.available_bytes, elsewhere.maximum_volume_bytes) == (0, 0)
    await volume(size=64 * MIB).create()
    after = await node.driver.provisioning.capacity(GetCapacity())
    assert after.available_bytes <= here.available_bytes - 64 * MIB


async def test_validation_says_no_with_a_reason(node, volume):
    """What a volume can have is confirmed, the rest answered with its reason; absent is not found."""
    pvc = volume(direct=True)
    await pvc.create()
    validate = node.driver.provisioning.validate
    asked = partial(ValidateCapabilities, pvc.id)
    assert (await validate(asked((pvc.capability(),)))).confirmed
    for capability in (
        pvc.capability(fs_type="btrfs"),
        pvc.capability(access_mode=AccessMode.MULTI_NODE_READER_ONLY),
    ):
        answer = await validate(asked((pvc.capability(), capability)))
        assert not answer.confirmed
        assert answer.message
    assert not (await validate(asked((pvc.capability(),), parameters={"unknown": "x"}))).confirmed
    await pvc.stage()
    answer = await validate(asked((pvc.capability(fs_type="xfs"),)))
    assert (answer.confirmed, answer.message) == (False, "the volume holds ext4")
    assert not (await validate(asked((pvc.capability(access_type=AccessType.BLOCK, fs_type=""),)))).confirmed
    with pytest.raises(NotFound):
        await validate(ValidateCapabilities("nothing", (pvc.capability(),)))
    await pvc.unstage()


@pytest.fixture
async def two_pools(scratch):
    """A node with the pools `default` and `fast`."""
    pools = {}
    for name in ("default", "fast"):
        (scratch / name).mkdir()
        pools[name] = {"backend": "loopfile", "directory": str(scratch / name), "copies": "full"}
    async with serving(scratch, pools=pools) as served:
        yield served


async def test_a_name_is_unique_over_all_pools(two_pools):
    """The same name in another pool is not a second volume, which nobody could tell apart."""
    await Volume(two_pools).create()
    with pytest.raises(AlreadyExists, match="pool default"):
        await Volume(two_pools, parameters={"katacsi.io/pool": "fast"}).create()
    fast = Volume(two_pools, "pvc-2", parameters={"katacsi.io/pool": "fast"})
    await fast.create()
    assert fast.id.startswith("v1:fast:")
    record = two_pools.scratch / "fast/volumes/pvc-2/volume.json"
    assert json.loads(record.read_text().splitlines()[0])["csi_name"] == "pvc-2"
    assert len((await two_pools.driver.provisioning.list("", 0)).volumes) == 2


async def test_a_copy_is_made_in_the_pool_of_its_source(two_pools):
    """A clone into another pool is refused by name, instead of being an empty volume."""
    source = await Volume(two_pools).create()
    with pytest.raises(InvalidRequest, match="is in pool default"):
        await Volume(two_pools, "copy", parameters={"katacsi.io/pool": "fast"}).create(source)


async def test_snapshots_of_two_pools_are_listed_by_volume(two_pools):
    """The snapshots of one volume can be listed while other pools have other volumes."""
    pvc = Volume(two_pools)
    await pvc.create()
    other = Volume(two_pools, "pvc-2", parameters={"katacsi.io/pool": "fast"})
    await other.create()
    mine = await pvc.snapshot("a")
    await other.snapshot("b")
    page = await two_pools.driver.snapshots.list(ListSnapshots(source_volume_id=pvc.id))
    assert page.snapshots == (mine,)
    assert len((await two_pools.driver.snapshots.list(ListSnapshots())).snapshots) == 2
