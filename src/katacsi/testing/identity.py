"""Conformance: one pool is served by one driver, and its disks are known by what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import Scope
from katacsi.errors import KatacsiError
from katacsi.testing.kit import ConformanceKit
from katacsi.testing.processes import in_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.testing.pools import PoolUnderTest


@pytest.mark.asyncio
class IdentityTests(ConformanceKit):
    """start, beside another one and after a reboot, and a pool that is only viewed."""

    async def test_a_view_sees_and_changes_nothing(self, pool: PoolUnderTest) -> None:
        """A pool that is opened read-only beside the one that serves lists the same, and refuses changes."""
        volume = await pool.create("a")
        async with pool.view() as view:
            assert view.pool_uid == pool.backend.pool_uid
            assert await view.list("", 0) == await pool.backend.list("", 0)
            assert await view.get(volume.id) == volume
            assert await view.find("b") is None
            with pytest.raises(KatacsiError):
                await view.create(pool.request("b"))
            with pytest.raises(KatacsiError):
                await view.delete(volume.id)
        assert (await pool.backend.list("", 0)).items == (volume,)

    async def test_the_pool_keeps_its_identity(self, pool: PoolUnderTest) -> None:
        """A restart gives the pool no new uid: ids would lose their meaning."""
        uid = pool.backend.pool_uid
        assert len(uid) == 8
        assert int(uid, 16) >= 0
        await pool.restart()
        assert pool.backend.pool_uid == uid

    async def test_a_second_driver_is_refused(self, pool: PoolUnderTest) -> None:
        """While a pool is served, nobody else starts it: two drivers would give out the same room."""
        if pool.backend.scope is not Scope.LOCAL:
            pytest.skip("storage in the network is served from several places")
        volume = await pool.create("a")

        async def serve(second: PoolUnderTest) -> None:
            await second.backend.list("", 0)

        started = await in_processes(1, pool.again, serve, expected=KatacsiError)
        assert not started, "a second driver started on storage that is served: both give out the same room"
        assert await pool.existing(volume.id) == volume
        await pool.restart()

    async def test_disks_are_known_by_identity(
        self, pool: PoolUnderTest, rename_devices: Callable[[], object]
    ) -> None:
        """After a reboot that gave devices other names, each volume still has its own bytes."""
        names = [f"pvc-{number}" for number in range(self.volumes_at_once)]
        volumes = [await pool.create(name) for name in names]
        for volume in volumes:
            await pool.write(volume.id, f"bytes of {volume.csi_name}".encode())
        await pool.restart(rename_devices)
        for volume in volumes:
            wanted = f"bytes of {volume.csi_name}".encode()
            found = await pool.read(volume.id, len(wanted))
            assert found == wanted, (
                f"{volume.id} has {found!r} after the kernel gave the disks other names: a tenant reads, and "
                "writes to, the disk of another"
            )
