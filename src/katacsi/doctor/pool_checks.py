"""The pools of the configuration: whether each opens, and has room. Every backend can tell that of its own.

What is known of the built-in backends beyond that is in `loopfile_checks` and `lvm_checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.model import Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node, PoolFacts

POOLS: Final = Checks("Pools")


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
        subject = named(pool)
        if isinstance(pool.problem, Unread):
            yield unknown(subject, pool.problem.reason, "run doctor as root")
        elif pool.problem:
            yield failure(subject, pool.problem, "see the message")
        elif pool.unready:
            yield note(subject, "is not set up yet; the first `katacsi serve` does it")
        else:
            yield ok(subject, "opens")


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
            yield ok(named(pool), f"{format_size(available)} available")
        else:
            yield warning(
                named(pool),
                f"{format_size(available)} available, a volume by default has {format_size(smallest)}",
                "enlarge the pool, or delete volumes",
            )


def named(pool: PoolFacts) -> str:
    """Name a pool as the subject of a result."""
    return f"pool {pool.name} ({pool.backend})"
