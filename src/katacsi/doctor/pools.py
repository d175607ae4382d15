"""The pools of the configuration: whether each opens, and has room. Every backend can tell that of its own.

They are opened for viewing, so nothing changes. What a backend knows beyond that it brings itself; see
`katacsi.doctor.backends`.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi import app
from katacsi.errors import KatacsiError, PoolNotSetUp
from katacsi.findings import Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.backends.api import Backend
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pool

POOLS: Final[Checks[Judge]] = Checks("Pools")


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool of the configuration.

    Attributes:
        name: as in the configuration.
        backend: the backend's name.
        problem: why its backend cannot use it; empty: it can.
        unready: it was never used, so that there is nothing to open.
        available_bytes: room for new volumes; `None`: not known.
        attached: its volumes that have a device on this node, with the device's number; only if asked for.
    """

    name: str
    backend: str
    problem: str | Unread = ""
    unready: bool = False
    available_bytes: int | None = None
    attached: tuple[tuple[str, int], ...] = ()

    @property
    def subject(self) -> str:
        """How a result names it."""
        return f"pool {self.name} ({self.backend})"


async def find(loaded: Settings, *, with_devices: bool) -> tuple[PoolFacts, ...]:
    """Look at each pool, and at the devices of its volumes where that is worth the time.

    Raises:
        SettingsError: the configuration is wrong.
    """
    pools = app.pools_of(loaded, platform.node() or "localhost", read_only=True)
    try:
        return tuple([await _facts(pool, with_devices=with_devices) for pool in pools])
    finally:
        await pools.close()


async def _facts(pool: Pool, *, with_devices: bool) -> PoolFacts:
    try:
        backend = await pool.open()
        available = (await backend.capacity({})).available_bytes
        attached = await _attached(backend) if with_devices else ()
    except PoolNotSetUp:
        return PoolFacts(pool.name, pool.backend_name, unready=True)
    except KatacsiError as error:
        # Whoever is not root is refused much, and that says nothing of the pool.
        problem = Unread(error.message) if os.geteuid() else error.message
        return PoolFacts(pool.name, pool.backend_name, problem)
    except OSError as error:
        return PoolFacts(pool.name, pool.backend_name, f"pool {pool.name!r}: {error}")
    return PoolFacts(pool.name, pool.backend_name, available_bytes=available, attached=attached)


async def _attached(backend: Backend) -> tuple[tuple[str, int], ...]:
    found = []
    try:
        for volume in (await backend.list("", 0)).items:
            device = await backend.attached(volume.id)
            if device is not None:
                found.append((str(volume.id), device.path.stat().st_rdev))
    except (KatacsiError, OSError):
        # They only tell whose a device is that somebody holds; that it is held is said in any case.
        return tuple(found)
    return tuple(found)


# -- checks --------------------------------------------------------------------------------------------


@POOLS.add(
    "pool-usable",
    "each pool opens",
    Harm.PODS,
    "A pool that cannot be opened serves none of its volumes. The backend itself is asked, without changing "
    "anything.",
)
def usable(node: Node) -> Iterator[Result]:
    """Say which pools can be used."""
    if node.settings is None:
        yield note("pools", "no configuration was given", "give one by --config to have its pools checked")
    for pool in node.pools:
        if isinstance(pool.problem, Unread):
            yield unknown(pool.subject, pool.problem.reason, "run doctor as root")
        elif pool.problem:
            yield failure(pool.subject, pool.problem, "see the message")
        elif pool.unready:
            yield note(pool.subject, "is not set up yet; the first `katacsi serve` does it")
        else:
            yield ok(pool.subject, "opens")


@POOLS.add(
    "pool-room",
    "room for new volumes",
    Harm.NONE,
    "Without room no volume is created; the pods wait.",
)
def room(node: Node) -> Iterator[Result]:
    """Say how much room there is."""
    smallest = node.settings.default_volume_size if node.settings else MIB
    for pool in node.pools:
        available = pool.available_bytes
        if available is None:
            continue
        if available >= smallest:
            yield ok(pool.subject, f"{format_size(available)} available")
        else:
            yield warning(
                pool.subject,
                f"{format_size(available)} available, a volume by default has {format_size(smallest)}",
                "enlarge the pool, or delete volumes",
            )
