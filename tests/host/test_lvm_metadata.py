"""The lvm backend against LVM's real metadata, without device-mapper: commits, tags, names, exit codes."""

import asyncio

import pytest

from katacsi.backends.api import CreateRequest, Facts, FormatState, PoolContext, SizeRange
from katacsi.backends.lvm import LvmBackend, commands
from katacsi.backends.lvm.contents import LvmContents
from katacsi.backends.lvm.settings import Wipe
from katacsi.errors import (
    AlreadyExists,
    CorruptRecord,
    HostError,
    OperationPending,
    OutOfSpace,
    PoolUnavailable,
    SizeOutOfRange,
    Unsupported,
    VolumeInUse,
)
from katacsi.host import block
from katacsi.model import MIB
from support.lvm_metadata import VG, volume_group
from support.pools import filled, mounted_filesystem

UUID = "6b1f2a52-0e5c-4c8e-9a53-000000000001"


def request(name, required=8 * MIB, limit=0, **parameters):
    return CreateRequest(name, SizeRange(required, limit), parameters, {"direct": "auto"})


@pytest.fixture
def vg(scratch, monkeypatch):
    with volume_group(scratch, monkeypatch) as made:
        yield made


@pytest.fixture
def wiped(monkeypatch):
    """The LVs whose bytes were wiped; without a kernel's part there are none to wipe."""
    names = []

    async def wipe(self, entry):
        if entry.record.wipe is not Wipe.NONE:
            names.append(entry.lv.name)

    monkeypatch.setattr(LvmContents, "wipe", wipe)
    return names


async def test_a_volume_is_its_lv(vg):
    """Everything about a volume stands in the tags of its LV; LVM alone can tell it after a restart."""
    pool = await vg.start()
    volume = await pool.create(request("pvc-1", required=5 * MIB))
    assert volume.size_bytes == 8 * MIB
    tags = vg.lvs()["kv-pvc-1"]
    assert {
        "katacsi.io/kind=volume",
        "katacsi.io/state=ready",
        "katacsi.io/name=pvc-1",
        "katacsi.io/pool=pool",
        "katacsi.io/driver=test.katacsi.io",
        "katacsi.io/attribute/direct=auto",
        f"katacsi.io/created={volume.created_at!r}",
    } <= tags
    again = await vg.start()
    assert await again.get(volume.id) == volume
    assert again.pool_uid == pool.pool_uid == volume.id.pool_uid


async def test_tags_are_in_the_commit_of_their_lv(vg):
    """Making the LV is one commit, ending `creating` another; there is no moment without tags."""
    pool = await vg.start()
    before = vg.seqno()
    await pool.create(request("a"))
    assert vg.seqno() == before + 2


async def test_facts_change_in_one_commit(vg):
    """Facts are replaced by one commit, with no report in between; the same facts need none."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    before = vg.seqno()
    facts = Facts(FormatState.FORMATTED, "ext4", UUID, guest_written=True)
    await pool.get(volume.id)
    vg.forget()
    await pool.compare_and_set_facts(volume.id, Facts(), facts)
    await pool.compare_and_set_facts(volume.id, facts, facts)
    assert vg.commands() == ["lvchange"]
    assert vg.seqno() == before + 1
    assert f"katacsi.io/formatted=ext4:{UUID}" in vg.lvs()["kv-a"]
    assert (await pool.get(volume.id)).facts == facts
    with pytest.raises(OperationPending):
        await pool.compare_and_set_facts(volume.id, Facts(), facts)


async def test_a_volume_that_is_being_filled_is_counted(vg, monkeypatch):
    """It has its LV, and so its room, before anybody can find it; katacsi does not take it off twice."""
    pool = await vg.start()
    before = await pool.capacity({})
    filling, may_end = asyncio.Event(), asyncio.Event()

    async def zero(*_):
        filling.set()
        await may_end.wait()

    monkeypatch.setattr(LvmContents, "zero", zero)
    assert not await pool.reserved("a")
    call = asyncio.create_task(pool.create(request("a")))
    await filling.wait()
    assert await pool.find("a") is None
    assert await pool.reserved("a")
    assert (await pool.capacity({})).available_bytes == before.available_bytes - 8 * MIB
    may_end.set()
    await call
    assert await pool.reserved("a")


async def test_creating_costs_five_commands(vg):
    """A thick volume costs a report before and one after, and three changes; a burst of reading nothing."""
    pool = await vg.start()
    vg.forget()
    volume = await pool.create(request("a"))
    assert vg.commands() == ["lvcreate", "fullreport", "lvchange", "lvchange"]
    vg.forget()
    await asyncio.gather(*(pool.get(volume.id) for _ in range(20)), pool.list("", 0), pool.capacity({}))
    assert vg.commands() == []


async def test_readers_share_a_report(vg, monkeypatch):
    """Twenty readers that come at once cost one report, two if one was running already."""
    pool = await vg.start()
    pool._group._known = None
    vg.forget()
    await asyncio.gather(*(pool.list("", 0) for _ in range(20)))
    assert vg.commands() == ["fullreport"]


async def test_sizes_are_rounded_up_within_the_limit(vg):
    """Sizes are whole extents; a limit between two of them is out of range, and nothing is made."""
    pool = await vg.start()
    with pytest.raises(SizeOutOfRange, match="4194304"):
        await pool.create(request("a", required=5 * MIB, limit=6 * MIB))
    assert vg.lvs() == {}
    assert (await pool.create(request("a", required=1, limit=4 * MIB))).size_bytes == 4 * MIB


@pytest.mark.parametrize(
    ("parameters", "disks"),
    [
        ({"type": "raid1", "mirrors": "2"}, 3),
        ({"type": "raid5"}, 3),
        ({"type": "raid6"}, 5),
        ({"type": "raid10"}, 4),
        ({"type": "striped", "stripes": "3"}, 3),
    ],
)
async def test_too_few_disks_are_an_error(vg, parameters, disks):
    """What the disks cannot hold is refused, saying how many it takes; LVM makes no lesser volume of it."""
    pool = await vg.start()
    assert (await pool.capacity(parameters)).available_bytes == 0
    with pytest.raises(OutOfSpace, match=f"{disks} disks, and volume group {VG} has 2"):
        await pool.create(request("a", **parameters))
    assert vg.lvs() == {}


async def test_striped_volumes_lie_on_both_disks(vg):
    """LVM is asked for what the class says, and reports it."""
    pool = await vg.start()
    await pool.create(request("a", type="striped"))
    words = vg.lvm(
        "lvs", "--noheadings", "--options", "segtype,stripes,stripe_size", "--units", "k", f"{VG}/kv-a"
    )
    assert words.split() == ["striped", "2", "64.00k"]


async def test_capacity_falls_and_rises_with_volumes(vg):
    """What is offered is what LVM then gives, to the last extent."""
    pool = await vg.start()
    room = await pool.capacity({})
    volume = await pool.create(request("a", required=room.maximum_volume_bytes))
    assert (await pool.capacity({})).available_bytes == 0
    with pytest.raises(OutOfSpace):
        await pool.create(request("b"))
    await pool.delete(volume.id)
    assert await pool.capacity({}) == room


async def test_a_group_whose_disk_takes_no_writes(vg):
    """It has no room, which sends new volumes elsewhere; what is there can still be found."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    block.set_read_only(vg.disks[1], True)
    try:
        pool = await vg.start()
        assert (await pool.capacity({})).available_bytes == 0
        with pytest.raises(OutOfSpace, match=f"{vg.disks[1]} of volume group {VG} refuse writes.*--setrw"):
            await pool.create(request("b"))
        assert await pool.get(volume.id) == volume
    finally:
        block.set_read_only(vg.disks[1], False)
    await pool.create(request("b"))


@pytest.fixture
def zeroed(vg, monkeypatch):
    """The extents of the growth of `a` at each moment when it was zeroed."""
    seen = []

    async def zero(self, device, start=0):
        lvs = vg.lvs()
        if "kg-a" in lvs:
            seen.append(vg.extents("kg-a"))
            for name in lvs:  # a neighbour is deleted meanwhile
                if name.startswith("beside-"):
                    vg.lvm("lvremove", "--yes", f"{VG}/{name}")

    monkeypatch.setattr(LvmContents, "zero", zero)
    return seen


@pytest.mark.parametrize("parameters", [{}, {"type": "striped"}], ids=["linear", "striped"])
async def test_a_volume_grows_into_the_very_extents_that_were_zeroed(vg, zeroed, parameters):
    """LVM would choose those right behind it, in which a former tenant's bytes are."""
    pool = await vg.start()
    volume = await pool.create(request("a", **parameters))
    for disk in vg.disks:
        vg.lvm("lvcreate", "--zero", "n", "--name", f"beside-{disk.name}", "--extents", "4", VG, disk)
    before = vg.extents("kv-a")
    assert await pool.expand(volume.id, 16 * MIB) == 16 * MIB
    (grown_into,) = zeroed
    assert grown_into
    assert vg.extents("kv-a") - before == grown_into
    assert await pool.expand(volume.id, 16 * MIB) == 16 * MIB
    assert not [name for name in vg.lvs() if name.startswith("kg-")]
    assert (await pool.get(volume.id)).size_bytes == 16 * MIB


async def test_a_growth_that_failed_is_begun_anew(vg, zeroed, monkeypatch):
    """What it reserved is given back first: the retry may ask for another size."""
    pool = await vg.start()
    volume = await pool.create(request("a"))

    async def fail(self, device, start=0):
        raise HostError("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(LvmContents, "zero", fail)
        with pytest.raises(HostError, match="does not answer"):
            await pool.expand(volume.id, 12 * MIB)
    assert "kg-a" in vg.lvs()
    assert (await pool.get(volume.id)).size_bytes == 8 * MIB
    assert await pool.expand(volume.id, 16 * MIB) == 16 * MIB
    assert [len(extents) for extents in zeroed] == [2]
    assert set(vg.lvs()) == {"kv-a"}


async def test_a_thick_snapshot_needs_room_for_its_copy_and_for_what_is_written_meanwhile(vg):
    """With room for one of them it is refused, and nothing is left of it."""
    pool = await vg.start()
    free = (await pool.capacity({})).available_bytes // (4 * MIB)
    volume = await pool.create(request("a", required=40 * MIB))
    vg.lvm("lvcreate", "--zero", "n", "--name", "others", "--extents", str(free - 10 - 15), VG)
    pool = await vg.start()
    assert (await pool.capacity({})).available_bytes == 60 * MIB
    with pytest.raises(OutOfSpace, match="80Mi were asked for, 60Mi can be given"):
        await pool.create_snapshot("s", volume.id)
    assert set(vg.lvs()) == {"kv-a", "others"}
    assert (await pool.list_snapshots("", 0)).items == ()


async def test_strangers_are_left_alone(vg):
    """LVs of other owners are neither listed nor touched; a name that one of them has is refused."""
    vg.lvm(
        "lvcreate",
        "--yes",
        "-an",
        "-Zn",
        "-Wn",
        "--extents",
        "1",
        "--name",
        "kv-taken",
        "--addtag",
        "mine",
        VG,
    )
    pool = await vg.start()
    assert (await pool.list("", 0)).items == ()
    with pytest.raises(AlreadyExists, match=f"{VG}/kv-taken"):
        await pool.create(request("taken"))
    assert vg.lvs() == {"kv-taken": {"mine"}}


async def test_two_pools_share_a_group(vg):
    """Each pool sees its own volumes; a name that the other one has is refused."""
    first = await vg.start(pool="first")
    await first.create(request("a"))
    second = await vg.start(pool="second")
    assert (await second.list("", 0)).items == ()
    with pytest.raises(AlreadyExists):
        await second.create(request("a"))


async def test_a_renamed_lv_is_still_the_volume(vg):
    """Tags, not names, say what an LV is: a renamed one is not absent, and is not made again."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    vg.lvm("lvrename", VG, "kv-a", "renamed")
    pool = await vg.start()
    assert await pool.get(volume.id) == volume
    assert await pool.create(request("a")) == volume
    await pool.delete(volume.id)
    assert vg.lvs() == {}


async def test_damaged_tags_are_neither_absence_nor_a_crash(vg):
    """A volume whose tags were changed by hand is shown as abnormal, refused by name, and never deleted."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    vg.lvm("lvchange", "--deltag", "katacsi.io/state=ready", f"{VG}/kv-a")
    pool = await vg.start()
    shown = (await pool.list("", 0)).items
    assert [item.condition.abnormal for item in shown] == [True]
    for call in (pool.get(volume.id), pool.delete(volume.id), pool.create(request("a"))):
        with pytest.raises(CorruptRecord, match="kv-a"):
            await call
    assert set(vg.lvs()) == {"kv-a"}


async def test_a_missing_group_is_not_an_absent_volume(vg):
    """Without its group a pool answers nothing, least of all that a volume is gone."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    vg.lvm("vgrename", VG, "other")
    pool._group._known = None
    for call in (
        pool.get(volume.id),
        pool.delete(volume.id),
        pool.list("", 0),
        pool.attach(volume.id, {}, {}),
    ):
        with pytest.raises(PoolUnavailable, match="is gone"):
            await call
    vg.lvm("vgrename", "other", VG)
    assert await pool.get(volume.id) == volume


async def test_another_group_of_that_name_is_not_taken_for_the_pool(vg):
    """A group that was made anew under the old name has none of our volumes, and says so."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    vg.lvm("vgremove", "--force", "--yes", VG)
    vg.lvm("vgcreate", "--yes", VG, *vg.disks)
    pool._group._known = None
    with pytest.raises(PoolUnavailable, match="another one now"):
        await pool.delete(volume.id)


async def test_a_failing_lvm_is_not_an_absent_volume(vg):
    """An LVM that cannot be run or prints rubbish proves nothing."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    for script in ("#!/bin/sh\nexit 5\n", "#!/bin/sh\necho '{}'\n", "#!/bin/sh\nkill -9 $$\n"):
        vg.program.write_text(script)
        pool._group._known = None
        with pytest.raises(HostError):
            await pool.get(volume.id)
        with pytest.raises(HostError):
            await pool.delete(volume.id)


async def test_a_group_is_found_by_its_tag(vg):
    """A group may have another name on each node, as long as its tag is there once."""
    with pytest.raises(PoolUnavailable, match="tag fast"):
        await vg.start(volume_group=None, volume_group_tag="fast")
    vg.lvm("vgchange", "--addtag", "fast", VG)
    pool = await vg.start(volume_group=None, volume_group_tag="fast")
    assert (await pool.create(request("a"))).id.pool_uid == pool.pool_uid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("vgchange", "--systemid", "elsewhere", "--yes"), "system ID 'elsewhere'"),
        (("vgexport",), "vgimport"),
    ],
    ids=["foreign", "exported"],
)
async def test_groups_of_others_are_refused(vg, change, message):
    """A group that belongs to another host, or to none at present, is refused with what to do."""
    if change[0] == "vgchange":
        answer = vg.lvm(*change, VG)
        assert "changed" in answer
    else:
        vg.lvm(*change, VG)
    with pytest.raises(PoolUnavailable, match=message):
        await vg.start()


async def test_a_group_that_is_not_there(vg):
    """A pool whose group does not exist says which ones do."""
    with pytest.raises(PoolUnavailable, match=f"there are: {VG}"):
        await vg.start(volume_group="nothere")


async def test_two_servers_of_a_pool(vg):
    """A second katacsi that would serve the same pool is kept out; one that only looks is not."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    context = PoolContext("pool", "test.katacsi.io", "node-1")
    with pytest.raises(PoolUnavailable, match="another katacsi"):
        await LvmBackend(vg.settings(), context).start()
    view = LvmBackend(vg.settings(), PoolContext("pool", "test.katacsi.io", "node-1", read_only=True))
    await view.start()
    assert (await view.list("", 0)).items == (volume,)


async def test_snapshots_of_others_keep_their_origin(vg, monkeypatch):
    """LVM would remove the snapshots of an LV with it, so it stays while there is one."""
    pool = await vg.start()
    volume = await pool.create(request("a"))
    state = await pool._group.read()
    lv = state.lvs["kv-a"]
    foreign = type(lv)("u", "backup", lv.size_bytes, origin="kv-a")
    monkeypatch.setattr(type(state), "snapshots_of", lambda self, name: iter([foreign]))
    with pytest.raises(VolumeInUse, match="backup"):
        await pool.delete(volume.id)
    assert set(vg.lvs()) == {"kv-a"}


async def test_lvm_hears_nothing_of_the_hosts_configuration(vg):
    """Each command has the whole configuration with it: the locks, the filter, no udev, no other host's."""
    await vg.start()
    line = (vg.folder / "commands").read_text().splitlines()[-1]
    for said in (f'locking_dir = "{vg.folder}/lock"', "scan_lvs = 0", "use_devicesfile = 0", "r|.*|"):
        assert said in line
    environment = commands.environment(vg.settings())
    assert environment["LVM_SYSTEM_DIR"] == ""
    assert environment["LC_ALL"] == "C"
    assert environment["LVM_SUPPRESS_FD_WARNINGS"] == "1"


#: What a host may have told its own LVM; each of these would keep our pool from working.
HOST_CONFIGURATIONS = {
    "filter": 'devices { filter = [ "r|.*|" ] global_filter = [ "r|.*|" ] }',
    "format": 'report { output_format = "json_std" }',
    "units": 'global { units = "h" suffix = 1 }',
    "names": 'log { command_names = 1 prefix = "  " }',
    "read-only": "global { metadata_read_only = 1 }",
    "broken": "devices {",
}


@pytest.mark.parametrize("archived", [True, False], ids=["archived", "not archived"])
@pytest.mark.parametrize("said", HOST_CONFIGURATIONS.values(), ids=HOST_CONFIGURATIONS.keys())
async def test_the_hosts_configuration_does_not_reach_ours(vg, monkeypatch, said, archived):
    """Not from the folder of the backups, which may be LVM's own, nor from the environment of katacsi."""
    etc = vg.folder / "etc-lvm"
    for folder in (etc, etc / "backup", etc / "archive"):
        folder.mkdir()
    for name in ("lvm.conf", "lvmlocal.conf"):
        (etc / name).write_text(f"{said}\n")
    monkeypatch.setenv("LVM_SYSTEM_DIR", str(etc))
    pool = await vg.start(archive_directory=etc if archived else None)
    volume = await pool.create(request("a"))
    assert await pool.get(volume.id) == volume
    assert (await pool.capacity({})).available_bytes % (4 * MIB) == 0
    await pool.delete(volume.id)
    assert vg.lvs() == {}
    assert (etc / "backup" / VG).exists() is archived


async def test_metadata_can_be_archived(vg):
    """With a folder for them, LVM keeps what vgcfgrestore needs to undo an accident."""
    folder = vg.folder / "archive"
    pool = await vg.start(archive_directory=folder)
    await pool.create(request("a"))
    assert "kv-a" in (folder / "backup" / VG).read_text()
    assert list((folder / "archive").glob(f"{VG}_*.vg"))


@pytest.mark.gate("delete-needs-no-room")
async def test_a_full_folder_for_backups_keeps_nothing_from_being_deleted(vg, wiped):
    """LVM changes nothing without a backup where one is asked for; what frees room goes without."""
    with mounted_filesystem(vg.folder, "tmpfs", 1) as folder:
        pool = await vg.start(archive_directory=folder)
        volume = await pool.create(request("a", wipe="signatures"))
        filled(folder)
        with pytest.raises(HostError):
            await pool.create(request("b"))
        await pool.delete(volume.id)
        assert vg.lvs() == {}
        assert wiped == ["kv-a"]


@pytest.mark.gate("delete-needs-no-room")
@pytest.mark.parametrize("wipe", ["none", "signatures"])
async def test_a_group_without_room_for_metadata_lets_volumes_go(scratch, monkeypatch, wiped, wipe):
    """Each tag takes room in LVM's metadata: one that says that an LV is dying, too. It goes without."""
    with volume_group(scratch, monkeypatch, "--metadatasize", "64k", "--dataalignment", "64k") as vg:
        pool = await vg.start()
        volumes = [await pool.create(request(name, wipe=wipe)) for name in ("a", "b")]
        vg.lvm("lvcreate", "--name", "others", "--extents", "1", VG)
        for length in (1000, 100, 10, 1):
            number = 0
            while vg.takes_tag(f"{length}-{number}".ljust(length, "x")):
                number += 1
        with pytest.raises(OutOfSpace, match=f"volume group {VG}.*metadata"):
            await pool.create(request("c"))
        for volume in volumes:
            await pool.delete(volume.id)
        assert set(vg.lvs()) == {"others"}
        assert wiped == ([] if wipe == "none" else ["kv-a", "kv-b"])


async def test_stripes_are_at_most_an_extent(vg):
    """LVM's own limit is said before anything is made; an operator can move it, so no request is invalid."""
    pool = await vg.start()
    parameters = {"type": "striped", "stripe-size": "8Mi"}
    with pytest.raises(Unsupported, match=r"stripe-size: 8388608 is more than an extent .*vgchange -s"):
        await pool.create(request("a", **parameters))
    assert (await pool.capacity(parameters)).available_bytes > 0
