"""A crash after any LVM command leaves nothing that the next start and the repeated call do not put right."""

import pytest

from katacsi.backends.api import CreateRequest, Facts, FormatState, SizeRange
from katacsi.errors import HostError
from katacsi.host.command import CommandTimeout
from katacsi.model import MIB
from support.lvm_crashes import Crashes, at_each_command
from support.lvm_metadata import volume_group

FACTS = Facts(FormatState.FORMATTED, "ext4", "6b1f2a52-0e5c-4c8e-9a53-000000000001")
REQUEST = CreateRequest("a", SizeRange(8 * MIB), {}, {"direct": "auto"})


@pytest.fixture
def vg(scratch, monkeypatch):
    with volume_group(scratch, monkeypatch) as made:
        yield made


@pytest.fixture
def crashes(monkeypatch):
    return Crashes(monkeypatch)


async def nothing(pool):
    pass


async def one_volume(pool):
    await pool.create(REQUEST)


async def only_volume(pool):
    (volume,) = (await pool.list("", 0)).items
    return volume


async def test_creating(vg, crashes):
    """One volume, one LV, marked ready; whatever was half made is gone or was finished."""

    async def check(pool, where):
        volume = await only_volume(pool)
        assert (volume.csi_name, volume.size_bytes, volume.facts) == ("a", 8 * MIB, Facts()), where
        assert set(vg.lvs()) == {"kv-a"}, where
        assert "katacsi.io/state=ready" in vg.lvs()["kv-a"], where
        await pool.delete(volume.id)
        assert vg.lvs() == {}

    assert await at_each_command(crashes, vg.start, nothing, lambda pool: pool.create(REQUEST), check) == 2


async def test_growing(vg, crashes):
    """The volume has its new size, and no extent is lost."""

    async def grow(pool):
        return await pool.expand((await only_volume(pool)).id, 20 * MIB)

    async def check(pool, where):
        volume = await only_volume(pool)
        assert volume.size_bytes == 20 * MIB, where
        assert set(vg.lvs()) == {"kv-a"}, where
        await pool.delete(volume.id)

    assert await at_each_command(crashes, vg.start, one_volume, grow, check) == 3


async def test_deleting(vg, crashes):
    """No LV is left, and the pool has its room back."""
    room = await (await vg.start()).capacity({})

    async def delete(pool):
        for volume in (await pool.list("", 0)).items:
            await pool.delete(volume.id)

    async def check(pool, where):
        assert vg.lvs() == {}, where
        assert await pool.capacity({}) == room, where

    assert await at_each_command(crashes, vg.start, one_volume, delete, check) == 1


async def test_setting_facts(vg, crashes):
    """Facts are the old ones or the new ones, and setting them again is success."""

    async def set_facts(pool):
        volume = await only_volume(pool)
        await pool.compare_and_set_facts(volume.id, volume.facts, FACTS)

    async def check(pool, where):
        volume = await only_volume(pool)
        assert volume.facts == FACTS, where
        await pool.delete(volume.id)

    assert await at_each_command(crashes, vg.start, one_volume, set_facts, check) == 1


@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
async def test_an_lvm_that_hangs_is_killed_and_asked_again(vg, done):
    """A command that was killed may have committed or not: the retry finds one volume in both cases."""
    pool = await vg.start(command_timeout=1.0)
    real = vg.program.read_text()
    shell, log, call = real.splitlines()
    hanging = f"{call.replace('exec ', '') if done else ':'}; sleep 30"
    vg.program.write_text(f'{shell}\n{log}\nif [ "$1" = lvcreate ]; then {hanging}; fi\n{call}\n')
    with pytest.raises(CommandTimeout):
        await pool.create(REQUEST)
    vg.program.write_text(real)
    volume = await pool.create(REQUEST)
    assert set(vg.lvs()) == {"kv-a"}
    assert (await pool.list("", 0)).items == (volume,)


@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
@pytest.mark.parametrize("step", ["lvcreate", "lvchange"])
async def test_an_lvm_that_fails_is_no_harm(vg, step, done):
    """After an error nothing known before is believed: the retry finds what was done, or does it."""
    pool = await vg.start()
    real = vg.program.read_text()
    shell, log, call = real.splitlines()
    failing = f"{call.replace('exec ', '') if done else ':'}; exit 5"
    vg.program.write_text(f'{shell}\n{log}\nif [ "$1" = {step} ]; then {failing}; fi\n{call}\n')
    with pytest.raises(HostError):
        await pool.create(REQUEST)
    vg.program.write_text(real)
    volume = await pool.create(REQUEST)
    assert set(vg.lvs()) == {"kv-a"}
    assert (await pool.list("", 0)).items == (volume,)
