"""Conformance: facts are changed in one transaction and outlive everything but the volume."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Facts, FormatState, Growing
from katacsi.errors import OperationPending
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.refusing import refused

if TYPE_CHECKING:
    from katacsi.testing.pools import PoolUnderTest

UUID = "6b1f2a52-0e5c-4c8e-9a53-000000000001"

#: A volume's way through life, as the workflows record it.
STEPS = (
    Facts(FormatState.FORMATTING, "ext4", UUID),
    Facts(FormatState.FORMATTED, "ext4", UUID),
    Facts(FormatState.FORMATTED, "ext4", UUID, guest_written=True),
    Facts(FormatState.FORMATTED, "ext4", UUID, guest_written=True, pending_size=1 << 40),
    Facts(FormatState.FORMATTED, "xfs", UUID, inherited_uuid=True, growing=1 << 40),
    Facts(raw_written=True, others=(("made-up", '"of a later version"'),)),
)


@pytest.mark.asyncio
class FactsTests(ConformanceKit):
    """compare_and_set_facts."""

    async def test_facts_are_kept(self, pool: PoolUnderTest) -> None:
        """Each fact is read back as it was set, by get, find and list, also after a restart."""
        volume = await pool.create("a")
        before = volume.facts
        for facts in STEPS:
            await pool.backend.compare_and_set_facts(volume.id, before, facts)
            assert await pool.existing(volume.id) == replace(volume, facts=facts)
            await pool.restart()
            assert await pool.backend.find("a") == replace(volume, facts=facts)
            assert (await pool.backend.list("", 0)).items == (replace(volume, facts=facts),)
            before = facts

    async def test_facts_that_changed_meanwhile_are_not_overwritten(self, pool: PoolUnderTest) -> None:
        """Whoever expects other facts than there are changes nothing."""
        volume = await pool.create("a")
        with refused("facts were replaced that are not what the caller saw", by=OperationPending):
            await pool.backend.compare_and_set_facts(volume.id, STEPS[0], STEPS[1])
        assert await pool.existing(volume.id) == volume

    async def test_setting_the_same_facts_succeeds(self, pool: PoolUnderTest) -> None:
        """Facts that are what they shall be are success."""
        volume = await pool.create("a")
        await pool.backend.compare_and_set_facts(volume.id, volume.facts, volume.facts)
        assert await pool.existing(volume.id) == volume

    async def test_facts_survive_growth_and_attachment(self, pool: PoolUnderTest) -> None:
        """What is done to the device changes no fact, and asking for the volume again does not either."""
        volume = await pool.create("a", required=self.volume_size // 2)
        await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[1])
        await pool.write(volume.id, b"data")
        if isinstance(pool.backend, Growing):
            await pool.growing.expand(volume.id, self.volume_size)
        assert (await pool.create("a", required=self.volume_size // 2)).facts == STEPS[1]

    async def test_facts_go_with_the_volume(self, pool: PoolUnderTest) -> None:
        """A new volume under an old name knows nothing of the old one."""
        volume = await pool.create("a")
        await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[2])
        await pool.delete(volume.id)
        assert (await pool.create("a")).facts == Facts()
