"""Conformance: volumes are made, found and deleted, also by those who ask twice or wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from katacsi.backends import registry
from katacsi.backends.api import FormatState
from katacsi.errors import (
    AlreadyExists,
    InvalidRequest,
    KatacsiError,
    NotFound,
    SizeOutOfRange,
    StillWorking,
)
from katacsi.model import MAX_NAME_BYTES, Condition, storage_name
from katacsi.testing import blockio
from katacsi.testing.kit import ConformanceKit

if TYPE_CHECKING:
    from katacsi.backends.api import Facts, Volume
    from katacsi.testing.pools import PoolUnderTest

_A_DAY_S = 86400

UNSAFE_NAMES = {
    "slashes": "../../etc/passwd",
    "shell": "a b; touch $(id) `id` 'x' \"y\" | z & *",
    "option": "--help",
    "dot": ".hidden",
    "two-dots": "..",
    "upper-case": "PVC-Upper.Case_1",
    "hash-like": "h-0123456789abcdef0123456789abcdef",
    "utf-8": "ü" * (MAX_NAME_BYTES // 2),
    "emoji": "💾 名前",
    "line-break": "a\nb",
    "long": "x" * MAX_NAME_BYTES,
}


@pytest.mark.asyncio
class ProvisioningTests(ConformanceKit):
    """Create, get, find, delete."""

    async def test_installed_under_its_entry_point(self) -> None:
        """The registry finds the backend, and every setting of it is described."""
        if not self.entry_point:
            pytest.skip("no entry_point is given")
        factory = registry.load(self.entry_point)
        assert self.entry_point in {entry.name for entry in registry.installed()}
        for name, field in factory.Settings.model_fields.items():
            assert field.description, f"setting {name} has no description"

    async def test_a_new_volume_is_what_was_asked_for(self, pool: PoolUnderTest) -> None:
        """A new volume has the size, is unformatted and healthy, and is found by id and by name."""
        request = pool.request("pvc-1")
        volume = await pool.backend.create(request)
        assert volume.id.pool_uid == pool.backend.pool_uid
        assert volume.id.name == storage_name("pvc-1")
        assert volume.csi_name == "pvc-1"
        assert request.size.admits(volume.size_bytes)
        assert volume.facts.format is FormatState.UNFORMATTED
        assert volume.source is None
        assert dict(volume.parameters) == dict(request.parameters)
        assert dict(volume.attributes) == dict(request.attributes)
        assert not volume.condition.abnormal
        assert await pool.backend.get(volume.id) == volume
        assert await pool.backend.find("pvc-1") == volume

    async def test_a_volume_says_when_it_was_made(self, pool: PoolUnderTest) -> None:
        """The moment is in seconds since the epoch, by a clock that may be another's, and stays."""
        volume = await pool.create("a")
        assert abs(volume.created_at - time.time()) < _A_DAY_S, f"created_at is {volume.created_at}"
        await pool.restart()
        assert (await pool.existing(volume.id)).created_at == volume.created_at

    async def test_creating_twice_gives_the_same_volume(self, pool: PoolUnderTest) -> None:
        """A repeated request gives an equal volume, bytes included, also after a restart."""
        volume = await pool.create("a")
        await pool.write(volume.id, b"kept")
        assert await pool.create("a") == volume
        await pool.restart()
        assert await pool.create("a") == volume
        assert await pool.read(volume.id, 4) == b"kept"

    async def test_a_taken_name_with_another_size_is_refused(self, pool: PoolUnderTest) -> None:
        """A name that is taken by a smaller volume, or by a larger one than the limit, is refused."""
        volume = await pool.create("a")
        with pytest.raises(AlreadyExists):
            await pool.create("a", required=volume.size_bytes * 2)
        with pytest.raises(AlreadyExists):
            await pool.backend.create(pool.request("a", required=1, limit=volume.size_bytes - 1))
        assert await pool.backend.find("a") == volume

    async def test_a_taken_name_with_other_parameters_is_refused(self, pool: PoolUnderTest) -> None:
        """A name that is taken by a volume with other parameters is refused."""
        if self.other_parameters is None:
            pytest.skip("no other_parameters are given")
        volume = await pool.create("a")
        with pytest.raises(AlreadyExists):
            await pool.backend.create(pool.request("a", parameters=self.other_parameters))
        assert await pool.backend.find("a") == volume

    @pytest.mark.parametrize("excess", [1, 511, 4097])
    async def test_odd_sizes_are_rounded_up(self, pool: PoolUnderTest, excess: int) -> None:
        """A volume is never smaller than asked for, and its device is as large as it is said to be."""
        volume = await pool.create("a", required=self.volume_size - 8192 + excess)
        assert volume.size_bytes >= self.volume_size - 8192 + excess
        device = await pool.attach(volume.id)
        assert device.size_bytes == volume.size_bytes
        assert await pool.create("a", required=self.volume_size - 8192 + excess) == volume

    async def test_the_limit_is_kept(self, pool: PoolUnderTest) -> None:
        """A limit that a volume cannot meet is out of range; nothing is made."""
        with pytest.raises(SizeOutOfRange):
            await pool.backend.create(pool.request("a", required=0, limit=1))
        assert await pool.backend.find("a") is None

    async def test_unknown_parameters_are_refused_by_name(self, pool: PoolUnderTest) -> None:
        """A parameter that the backend does not know is refused, naming it; nothing is made."""
        request = pool.request("a", parameters={**self.parameters, "no-such-key": "1"})
        with pytest.raises(InvalidRequest, match="no-such-key"):
            await pool.backend.create(request)
        with pytest.raises(InvalidRequest, match="no-such-key"):
            await pool.backend.capacity(request.parameters)
        assert await pool.backend.find("a") is None

    async def test_illegal_parameter_values_are_refused_by_name(self, pool: PoolUnderTest) -> None:
        """A parameter with a value that is not legal is refused, naming its key; nothing is made."""
        if self.illegal_parameters is None:
            pytest.skip("no illegal_parameters are given")
        for key, value in self.illegal_parameters.items():
            with pytest.raises(InvalidRequest, match=key):
                await pool.backend.create(pool.request("a", parameters={**self.parameters, key: value}))
        assert await pool.backend.find("a") is None

    @pytest.mark.parametrize("name", UNSAFE_NAMES.values(), ids=UNSAFE_NAMES.keys())
    async def test_any_name_is_safe(self, pool: PoolUnderTest, name: str) -> None:
        """Whatever a volume is called, it is made, found, used and deleted like any other."""
        volume = await pool.create(name)
        assert volume.csi_name == name
        assert volume.id.name == storage_name(name)
        assert await pool.create(name) == volume
        await pool.write(volume.id, b"data")
        assert await pool.backend.find(name) == volume
        await pool.delete(volume.id)
        assert await pool.backend.find(name) is None

    async def test_what_is_absent_is_said_to_be(self, pool: PoolUnderTest) -> None:
        """Taking away what is not there succeeds; using it is an error that says so."""
        present = await pool.create("present")
        absent = replace(present.id, name="absent")
        backend = pool.backend
        assert await backend.get(absent) is None
        assert await backend.find("absent") is None
        assert await backend.attached(absent) is None
        await backend.detach(absent)
        await backend.delete(absent)
        with pytest.raises(NotFound):
            await pool.attach(absent)
        with pytest.raises(NotFound):
            await backend.compare_and_set_facts(absent, present.facts, present.facts)
        with pytest.raises(NotFound):
            await backend.condition(absent)
        assert await backend.find("present") == present

    async def test_another_pools_id_is_no_absent_volume(self, pool: PoolUnderTest) -> None:
        """About an id with another pool's uid nothing is known: neither absent nor deleted."""
        volume = await pool.create("a")
        uid = pool.backend.pool_uid
        foreign = replace(volume.id, pool_uid="00000000" if uid != "00000000" else "00000001")
        with pytest.raises(KatacsiError):
            await pool.backend.get(foreign)
        with pytest.raises(KatacsiError):
            await pool.backend.delete(foreign)
        with pytest.raises(KatacsiError):
            await pool.attach(foreign)
        assert await pool.backend.get(volume.id) == volume

    async def test_a_create_that_is_told_to_stop_is_resumed(self, pool: PoolUnderTest) -> None:
        """When the process is to end, create is done or says that it goes on; the next process ends it."""
        pool.stopping.set()
        with contextlib.suppress(StillWorking):
            await pool.backend.create(pool.request("a"))
        await pool.restart()
        volume = await pool.create("a")
        assert (await pool.backend.list("", 0)).items == (volume,)
        found = await pool.first_data(volume.id)
        assert found is None, f"a volume whose making was stopped is not blank at byte {found}"

    async def test_deleting_twice_succeeds(self, pool: PoolUnderTest) -> None:
        """A deleted volume is absent, deleting it again is success, and its name is free."""
        volume = await pool.create("a")
        await pool.delete(volume.id)
        assert await pool.backend.get(volume.id) is None
        await pool.backend.delete(volume.id)
        again = await pool.create("a", required=self.volume_size)
        assert again.facts == volume.facts

    async def test_volumes_do_not_disturb_each_other(self, pool: PoolUnderTest) -> None:
        """Volumes that are made, attached, marked and deleted at the same time are as good as one by one."""

        async def life(name: str) -> Volume:
            volume = await pool.create(name)
            device = await pool.attach(volume.id)
            assert await pool.attach(volume.id) == device
            await asyncio.to_thread(blockio.write, device, name.encode())
            facts: Facts = replace(volume.facts, format=FormatState.FORMATTED, fs_type="ext4", fs_uuid=name)
            await pool.backend.compare_and_set_facts(volume.id, volume.facts, facts)
            await pool.detach(volume.id)
            assert await pool.read(volume.id, len(name)) == name.encode()
            return await pool.existing(volume.id)

        names = [f"pvc-{number}" for number in range(self.volumes_at_once)]
        volumes = await asyncio.gather(*map(life, names))
        assert [volume.csi_name for volume in volumes] == names
        assert [volume.facts.fs_uuid for volume in volumes] == names
        assert all(volume.condition == Condition() for volume in volumes)
        await asyncio.gather(*(pool.delete(volume.id) for volume in volumes))
        assert (await pool.backend.list("", 0)).items == ()
