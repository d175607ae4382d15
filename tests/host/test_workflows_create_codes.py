"""Which code CreateVolume answers, on which depends what becomes of a PVC: the table of docs/errors.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grpclib.const import Status

from katacsi.errors import KatacsiError
from katacsi.model import AccessMode, AccessType, SnapshotId, Topology
from katacsi.rpc.status import status_of
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.requests import SourceKind, SourceRef
from support.cluster import StandIn, put_into
from support.node import MIB, Volume, serving

ERRORS = Path(__file__).parents[2] / "docs" / "errors.md"

#: What pins a claim to its node: the provisioner believes that the call still goes on.
PINNING = {Status.UNAVAILABLE, Status.ABORTED, Status.DEADLINE_EXCEEDED}


@pytest.fixture
async def node(scratch):
    """A node with two pools of which one is the default, and one whose disk is away."""
    (scratch / "fast").mkdir()
    default, fast = (
        {"backend": "loopfile", "directory": str(scratch / name), "copies": "full"}
        for name in ("pool", "fast")
    )
    gone = {"backend": "loopfile", "directory": str(scratch / "gone")}
    async with serving(scratch, pools={"default": default, "fast": fast, "gone": gone}) as served:
        yield served


def parameters(**by_key: str):
    """Ask for a volume with these parameters, whose keys have `__` for `/` and `_` for `-`."""

    async def case(node) -> None:
        keys = {key.replace("__", "/").replace("_", "-"): value for key, value in by_key.items()}
        prefixed = {f"katacsi.io/{key}" if "/" not in key else key: value for key, value in keys.items()}
        await Volume(node, parameters=prefixed).create()

    return case


def of_backend(backend: str, key: str, value: str):
    async def case(node) -> None:
        await Volume(node, parameters={f"{backend}.katacsi.io/{key}": value}).create()

    return case


def wanted(**how):
    """Ask for a volume of the default size with these capabilities."""

    async def case(node) -> None:
        await Volume(node, **{"size": 128 * MIB} | how).create()

    return case


async def two_filesystems(node) -> None:
    pvc = Volume(node)
    await pvc.create(capabilities=(pvc.capability(), pvc.capability(fs_type="xfs")))


async def source_in_another_pool(node) -> None:
    source = await Volume(node, "pvc-source").create()
    await Volume(node, parameters={"katacsi.io/pool": "fast"}).create(source)


async def source_of_the_other_kind(node) -> None:
    source = Volume(node, "pvc-source", access=AccessType.BLOCK, size=16 * MIB)
    view = await source.create()
    await source.set_facts(raw_written=True)
    await Volume(node).create(view)


async def less_than_the_source(node) -> None:
    source = await Volume(node, "pvc-source", size=32 * MIB).create()
    await Volume(node, size=16 * MIB).create(source)


async def absent_source(node) -> None:
    source = Volume(node, "pvc-source")
    await source.create()
    await source.delete()
    await Volume(node).create(source_ref=SourceRef(SourceKind.VOLUME, source.id))


async def same_name_another_size(node) -> None:
    await Volume(node).create()
    await Volume(node, size=32 * MIB).create()


async def same_name_another_pool(node) -> None:
    await Volume(node).create()
    await Volume(node, parameters={"katacsi.io/pool": "fast"}).create()


async def no_default(node) -> None:
    pools = node.settings["pools"]
    await node.restart(pools={"slow": pools["default"], "fast": pools["fast"]})
    await Volume(node).create()


async def cannot_copy(node) -> None:
    backend = type(await node.driver.context.pools.choose("default").open())
    source = await Volume(node, "pvc-source").create()
    kept = {name: getattr(backend, name) for name in ("atomic_copies", "freezes") if name in vars(backend)}
    for name in kept:
        delattr(backend, name)
    try:
        await Volume(node).create(source)
    finally:
        for name, value in kept.items():
            setattr(backend, name, value)


async def guests_xfs(node) -> None:
    source = Volume(node, "pvc-source", fs_type="xfs")
    view = await source.create()
    await source.stage()
    await source.unstage()
    await source.set_facts(guest_written=True)
    await Volume(node, fs_type="xfs", size=320 * MIB).create(view)


async def no_room(node) -> None:
    await Volume(node, size=1 << 50).create()


async def elsewhere(node) -> None:
    there = Topology({"topology.local.katacsi.io/node": "node-2"})
    await Volume(node).create(requisite=(there,))


async def source_elsewhere(node) -> None:
    source = SnapshotId("default", "ffffffff", "snap-1")
    await Volume(node).create(source_ref=SourceRef(SourceKind.SNAPSHOT, str(source)))


async def bad_annotation(node) -> None:
    cluster = put_into(node, StandIn())
    await Volume(node, parameters=cluster.annotate({"katacsi.io/direct": "yes"})).create()


async def api_away(node) -> None:
    cluster = put_into(node, StandIn())
    named = cluster.annotate()
    cluster.down = True
    await Volume(node, parameters=named).create()


async def busy(node) -> None:
    with node.driver.context.locks.hold(volume_lock("pvc-1")):
        await Volume(node).create()


async def damaged(node) -> None:
    pvc = Volume(node)
    await pvc.create()
    (pvc.disk.parent / "volume.json").write_text("{")
    await pvc.create()


CASES = {
    "a parameter that nobody knows": parameters(dirct="true"),
    "a value that is not legal": parameters(direct="yes"),
    "parameters of another backend than the pool's": of_backend("lvm", "type", "thin"),
    "mkfs options that are not allowed": parameters(mkfs_options="-F"),
    "an access mode for several nodes": wanted(mode=AccessMode.MULTI_NODE_MULTI_WRITER),
    "a filesystem that is not made here": wanted(fs_type="ntfs"),
    "a filesystem that Kata's guest does not know, for a direct volume": wanted(fs_type="btrfs", direct=True),
    "two filesystems at once": two_filesystems,
    "a mount option that the filesystem does not have": wanted(mount_flags=("allocsize=4k",)),
    "a mount option that is another call than mounting, such as `loop` or `bind`": wanted(
        mount_flags=("noatime,loop",)
    ),
    "a source in another pool": source_in_another_pool,
    "a source of the other kind, raw or with a filesystem": source_of_the_other_kind,
    "a limit below the filesystem's least size": wanted(size=MIB // 8, limit=MIB // 8),
    "less than the source has": less_than_the_source,
    "a source that does not exist": absent_source,
    "a volume of that name with another size": same_name_another_size,
    "a volume of that name in another pool": same_name_another_pool,
    "no pool is named, and none is the default": no_default,
    "a pool that cannot make copies, and a source is named": cannot_copy,
    "a larger copy of an xfs that a guest wrote, with `guest_filesystems: refuse`": guests_xfs,
    "an annotation of the claim with a value that is not legal": bad_annotation,
    "a pool of that name is not on this node": parameters(pool="typo"),
    "a pool whose storage is missing": parameters(pool="gone"),
    "no room in the pool": no_room,
    "the volume has to be on another node": elsewhere,
    "a source on another node": source_elsewhere,
    "the Kubernetes API cannot be asked now": api_away,
    "another call makes or changes the same volume or its source": busy,
    "a record in the pool that cannot be read": damaged,
}


def table() -> dict[str, Status]:
    """The rows of docs/errors.md, "CreateVolume": what is the matter, and the code."""
    section = ERRORS.read_text().split("\n## CreateVolume\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| ([A-Z_]+) \|$", section, re.MULTILINE)
    return {matter: Status[code] for matter, code in rows}


def test_every_row_of_the_table_is_tried():
    """What the page says of CreateVolume is what is tried here, row by row."""
    assert list(table()) == list(CASES)


@pytest.mark.parametrize("matter", CASES)
async def test_the_code_is_that_of_the_table(node, matter):
    """Wrong for good is INVALID_ARGUMENT; what an operator can mend is not, nor does it pin the claim."""
    with pytest.raises(KatacsiError) as refusal:
        await CASES[matter](node)
    status = status_of(refusal.value)
    assert (matter, status) == (matter, table()[matter])
    assert status not in PINNING or refusal.value.retry_helps
    assert len(refusal.value.message) > 20
