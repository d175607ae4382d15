"""Conformance: what was said to be stored outlasts a power cut, and a sync that failed is an error.

mkfs and guests rely on facts: "unformatted" that comes back after a power cut lets mkfs run over data. What
is watched is Python's `os.fsync` and its like in this process, those of `katacsi.host` among them; a backend
whose records a tool or a server writes is not seen by that, and skipped.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import KatacsiError
from katacsi.testing.facts import STEPS
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.refusing import refused
from katacsi.testing.syncing import failing_syncs, watching_writes

if TYPE_CHECKING:
    from katacsi.testing.pools import PoolUnderTest
    from katacsi.testing.syncing import WriteWatch

_ELSEWHERE = "the backend wrote no file in this process: what it stores, others have to sync"


@pytest.mark.asyncio
class DurabilityTests(ConformanceKit):
    """create, compare_and_set_facts, attach, and the disk below them."""

    async def test_a_new_volume_is_stored_before_it_is_told(self, pool: PoolUnderTest) -> None:
        """When create returns, all that was written for the volume is synced, names of files included."""
        with watching_writes() as watch:
            await pool.create("a")
        _all_synced(watch, "a volume that was told to exist may be gone after a power cut")

    async def test_facts_are_stored_before_they_are_told(self, pool: PoolUnderTest) -> None:
        """When compare_and_set_facts returns, all that was written is synced, names of files included."""
        volume = await pool.create("a")
        with watching_writes() as watch:
            await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[0])
        _all_synced(watch, "after a power cut the facts may be the old ones, and mkfs runs over data")

    async def test_a_failed_sync_is_an_error(self, pool: PoolUnderTest) -> None:
        """Facts that could not be synced are not said to be stored; the call can be repeated."""
        volume = await pool.create("a")
        with failing_syncs() as failing:
            try:
                await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[0])
            except KatacsiError:
                pass
            else:
                if not failing.count:
                    pytest.skip(_ELSEWHERE)
                pytest.fail("compare_and_set_facts said that facts are stored, though their sync had failed")
        present = (await pool.existing(volume.id)).facts
        assert present in {volume.facts, STEPS[0]}
        await pool.backend.compare_and_set_facts(volume.id, present, STEPS[0])
        assert (await pool.existing(volume.id)).facts == STEPS[0]

    @pytest.mark.parametrize("attached", [False, True], ids=["detached", "attached"])
    async def test_attach_stores_what_may_not_be_stored(self, pool: PoolUnderTest, *, attached: bool) -> None:
        """Facts that can be read are synced before a device is given out: who wrote them may have died."""
        volume = await pool.create("a")
        if attached:
            await pool.attach(volume.id)
        with watching_writes() as before:
            await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[0])
        if not (before.synced_files or before.synced_folders):
            pytest.skip(_ELSEWHERE)
        with watching_writes() as after:
            await pool.restart()
            await pool.attach(volume.id)
        there = {**before.present(), **after.present()}
        missing = [there[file] for file in before.synced_files - after.synced_files if file in there]
        missing += sorted(before.synced_folders - after.synced_folders)
        assert not missing, (
            f"attach gave out a device, and {', '.join(missing)} was synced neither by it nor by start: a "
            "process that was killed between its write and its sync left facts that can be read, and that a "
            "power cut takes back under a formatted volume"
        )

    async def test_a_device_waits_for_a_sync_that_failed(self, pool: PoolUnderTest) -> None:
        """After a sync that failed, no device is given out while syncs fail."""
        volume = await pool.create("a")
        with failing_syncs() as failing:
            with contextlib.suppress(KatacsiError):
                await pool.backend.compare_and_set_facts(volume.id, volume.facts, STEPS[0])
            if not failing.count:
                pytest.skip(_ELSEWHERE)
            if (await pool.existing(volume.id)).facts == STEPS[0]:
                with refused("a device was given out, though the facts that can be read could not be synced"):
                    await pool.attach(volume.id)


def _all_synced(watch: WriteWatch, consequence: str) -> None:
    if not watch.wrote:
        pytest.skip(_ELSEWHERE)
    left = watch.unsynced()
    assert not left, f"not synced: {'; '.join(left)}: {consequence}"
