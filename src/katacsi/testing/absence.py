"""Conformance: what cannot be seen is not called absent, or a delete is answered OK and a name made anew.

The hooks of `hooks` break things for these tests.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import KatacsiError, NotFound
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.refusing import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.backends.api import Volume
    from katacsi.testing.hooks import Breaking, BreakingVolume
    from katacsi.testing.pools import PoolUnderTest


@pytest.mark.asyncio
class AbsenceTests(ConformanceKit):
    """The storage, a disk or a record is away."""

    async def test_nothing_is_absent_while_the_storage_is_away(
        self, pool: PoolUnderTest, break_storage: Breaking
    ) -> None:
        """A pool whose storage cannot be seen raises, whatever it is asked; later all is as before."""
        volume = await pool.create("a")
        with break_storage():
            await _not_absent(pool, volume)
            with refused("list gave a list, though nothing could be seen"):
                await pool.backend.list("", 0)
            with refused("find called a name free, though nothing could be seen"):
                await pool.backend.find("never-made")
            with refused("a delete was answered OK, though nothing could be seen"):
                await pool.backend.delete(volume.id)
            with refused("a volume was made, though its storage is away"):
                await pool.create("never-made")
            with refused("facts were changed that nobody could read"):
                await pool.backend.compare_and_set_facts(volume.id, volume.facts, volume.facts)
            with refused("a device was given out, though its storage is away"):
                await pool.attach(volume.id)
        assert await pool.existing(volume.id) == volume
        assert await pool.backend.find("never-made") is None
        assert (await pool.backend.list("", 0)).items == (volume,)

    async def test_no_room_is_offered_while_the_storage_is_away(
        self, pool: PoolUnderTest, break_storage: Breaking
    ) -> None:
        """Room on storage that cannot be seen is not offered: pods would be placed where nothing fits."""
        with break_storage(), contextlib.suppress(KatacsiError):
            offered = await pool.backend.capacity(self.parameters)
            assert offered.available_bytes == 0, f"{offered} is offered by a pool whose storage is away"

    async def test_a_start_without_the_storage_disowns_no_volume(
        self, pool: PoolUnderTest, break_storage: Breaking
    ) -> None:
        """A driver that starts while the storage is away does not take an empty place for the pool."""
        volume = await pool.create("a")
        await pool.backend.close()
        with break_storage():
            backend = pool.unstarted()
            try:
                with contextlib.suppress(KatacsiError):
                    await backend.start()
                    # It may have found other storage in this place, of which it says so by another uid.
                    with refused(f"{volume.id} is called absent by a pool that was started without it"):
                        await backend.get(volume.id)
            finally:
                await backend.close()
        await pool.restart()
        assert await pool.existing(volume.id) == volume

    async def test_a_volume_without_its_disk_is_not_absent(
        self, pool: PoolUnderTest, break_disk: BreakingVolume
    ) -> None:
        """A volume whose bytes cannot be seen is still a volume, or an error; its name is not free."""
        volume, other = await pool.create("a"), await pool.create("b")
        with break_disk(volume):
            await _not_absent(pool, volume)
            await _not_passed_over(pool, volume)
            await _not_made_anew(pool, volume)
            assert await pool.existing(other.id) == other
        assert await pool.existing(volume.id) == volume

    async def test_a_vanished_disk_is_not_given_out(
        self, pool: PoolUnderTest, break_disk: BreakingVolume
    ) -> None:
        """A device that is not there is not given to a pod: its guest would write to something else."""
        volume = await pool.create("a")
        with break_disk(volume):
            with refused("a device was given out for a volume whose disk is gone"):
                await pool.attach(volume.id)
            with contextlib.suppress(KatacsiError):
                condition = await pool.condition(volume.id)
                assert condition.abnormal, "a volume whose disk is gone is called healthy"

    async def test_errors_are_those_of_katacsi(self, pool: PoolUnderTest, break_disk: BreakingVolume) -> None:
        """What goes wrong is told by a class of `katacsi.errors`: any other becomes INTERNAL."""
        volume = await pool.create("a")
        backend = pool.backend
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: backend.get(volume.id),
            "find": lambda: backend.find("a"),
            "list": lambda: backend.list("", 0),
            "capacity": lambda: backend.capacity(self.parameters),
            "create": lambda: pool.create("a"),
            "attach": lambda: pool.attach(volume.id),
            "attached": lambda: pool.attached(volume.id),
            "condition": lambda: pool.condition(volume.id),
            "is_blank": lambda: pool.is_blank(volume.id),
            "detach": lambda: backend.detach(volume.id),
        }
        raw = []
        with break_disk(volume):
            for name, call in calls.items():
                try:
                    await call()
                except KatacsiError:
                    continue
                except Exception as error:  # noqa: BLE001 -- just those are looked for
                    raw.append(f"{name} raised {type(error).__name__} ({error})")
        assert not raw, "; ".join(raw)

    async def test_a_volume_with_a_damaged_record_is_not_absent(
        self, pool: PoolUnderTest, damage_record: BreakingVolume
    ) -> None:
        """A volume about which nothing can be read is an error: not absent, not deleted, not made anew."""
        volume, other = await pool.create("a"), await pool.create("b")
        with damage_record(volume):
            await _not_absent(pool, volume)
            await _not_passed_over(pool, volume)
            with refused("a volume was deleted, though nobody could read whose bytes they are"):
                await pool.backend.delete(volume.id)
            with refused("a volume was given out for a name under which there is a damaged record"):
                await pool.create("a")
            with refused("a device was given out for a volume whose record is damaged"):
                await pool.attach(volume.id)
            assert await pool.existing(other.id) == other
        assert await pool.existing(volume.id) == volume


async def _not_absent(pool: PoolUnderTest, volume: Volume) -> None:
    backend, name = pool.backend, volume.csi_name
    consequence = "a delete would be answered OK, and the name made anew"
    with contextlib.suppress(KatacsiError):
        assert await backend.get(volume.id) is not None, f"get called {volume.id} absent: {consequence}"
    with contextlib.suppress(KatacsiError):
        assert await backend.find(name) is not None, f"find called {name!r} absent: {consequence}"
    try:
        await pool.condition(volume.id)
    except NotFound as error:
        raise AssertionError(f"condition called {volume.id} absent") from error
    except KatacsiError:
        pass


async def _not_passed_over(pool: PoolUnderTest, volume: Volume) -> None:
    with contextlib.suppress(KatacsiError):
        listed = {item.id for item in (await pool.backend.list("", 0)).items}
        assert volume.id in listed, f"list passed over {volume.id}: it would be forgotten"


async def _not_made_anew(pool: PoolUnderTest, volume: Volume) -> None:
    with contextlib.suppress(KatacsiError):
        made = await pool.create(volume.csi_name)
        assert made.created_at == volume.created_at, f"{volume.csi_name!r} was made anew over a volume"
