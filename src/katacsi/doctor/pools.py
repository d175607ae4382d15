"""The pools of the configuration: whether each opens, and has room. Every backend can tell that of its own.

They are opened for viewing, so nothing changes. What is known of the built-in backends beyond that is in
`loopfile_checks` and `lvm_checks`.
"""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi import app, settings
from katacsi.backends import registry
from katacsi.backends.loopfile import layout
from katacsi.backends.loopfile.settings import LoopfileSettings
from katacsi.backends.lvm.settings import Exec, LvmSettings
from katacsi.doctor import driver, places
from katacsi.errors import KatacsiError
from katacsi.findings import Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.host import command, files
from katacsi.host.offloop import off_loop
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.places import Place
    from katacsi.findings import Result
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pool

POOLS: Final[Checks[Judge]] = Checks("Pools")

_LVM_VERSION: Final = re.compile(r"LVM version:\s*(\S+)")


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool of the configuration.

    Attributes:
        name: as in the configuration.
        backend: the backend's name.
        settings: what its backend was told.
        problem: why its backend cannot use it; empty: it can.
        unready: it was never used, so that there is nothing to open.
        available_bytes: room for new volumes; `None`: not known.
        place: its folder, for backends that have one.
        lvm_version: of the LVM that is run for it.
        lvm_locks: the folder of LVM's locks.
    """

    name: str
    backend: str
    settings: BaseModel
    problem: str | Unread = ""
    unready: bool = False
    available_bytes: int | None = None
    place: Place | Unread | None = None
    lvm_version: str | Unread = ""
    lvm_locks: Place | Unread | None = None


async def find(loaded: Settings, node: HostFiles, *, contained: bool) -> tuple[PoolFacts, ...]:
    """Look at each pool.

    Raises:
        SettingsError: the configuration is wrong.
    """
    pools = app.pools_of(loaded, platform.node() or "localhost", read_only=True)
    try:
        return tuple([await _facts(loaded, pool, node, contained=contained) for pool in pools])
    finally:
        await pools.close()


async def _facts(loaded: Settings, pool: Pool, node: HostFiles, *, contained: bool) -> PoolFacts:
    own = _own(loaded, pool)
    place: Place | Unread | None = None
    locks: Place | Unread | None = None
    version: str | Unread = ""
    if isinstance(own, LoopfileSettings):
        place = places.place(own.directory, node, contained=contained)
    if isinstance(own, LvmSettings):
        locks = places.place(own.lock_directory, node, contained=contained)
        version = await _lvm_version(own)
    unready = isinstance(own, LoopfileSettings) and _never_used(own)
    problem: str | Unread = ""
    available = None
    if not unready:
        try:
            available = (await (await pool.open()).capacity({})).available_bytes
        except KatacsiError as error:
            # Whoever is not root is refused much, and that says nothing of the pool.
            problem = Unread(error.message) if driver.user() else error.message
        except OSError as error:
            problem = f"pool {pool.name!r}: {error}"
    return PoolFacts(
        name=pool.name,
        backend=pool.backend_name,
        settings=own,
        problem=problem,
        unready=unready,
        available_bytes=available,
        place=place,
        lvm_version=version,
        lvm_locks=locks,
    )


def _own(loaded: Settings, pool: Pool) -> BaseModel:
    """Give what a pool's backend was told; `app.pools_of` has proven it right."""
    raw = {key: value for key, value in loaded.pools[pool.name].items() if key != "backend"}
    return settings.check(registry.load(pool.backend_name).Settings, raw, where=f"pools.{pool.name}")


def _never_used(own: LoopfileSettings) -> bool:
    """Whether this is a folder in which the first start would make a pool."""
    folder = own.directory
    try:
        if not folder.is_dir() or (folder / layout.IDENTITY).exists():
            return False
        if own.require_mount and not files.is_mount_point(folder):
            return False
        return not any((folder / name).is_dir() for name in ("volumes", "snapshots"))
    except (OSError, KatacsiError):
        return False


async def _lvm_version(own: LvmSettings) -> str | Unread:
    there = ["nsenter", "--target", "1", "--mount", "--", own.program]
    here = shutil.which(own.program, path=command.ENVIRONMENT["PATH"]) is not None
    program = there if own.exec is Exec.HOST or (own.exec is Exec.AUTO and not here) else [own.program]
    try:
        answer = await off_loop(command.run, [*program, "version"], timeout_s=own.command_timeout)
    except KatacsiError as error:
        return Unread(error.message)
    found = _LVM_VERSION.search(answer.stdout.decode(errors="replace"))
    return found[1] if found else Unread(f"{own.program} version: names no version")


# -- checks ---------------------------------------------------------------------------------------------


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
