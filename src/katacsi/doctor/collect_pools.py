"""Asks the pools of a configuration how they are; they are opened for viewing, so nothing changes."""

from __future__ import annotations

import platform
import re
import shutil
from typing import TYPE_CHECKING, Final

from katacsi import app, settings
from katacsi.backends import registry
from katacsi.backends.loopfile import layout
from katacsi.backends.loopfile.settings import LoopfileSettings
from katacsi.backends.lvm.settings import Exec, LvmSettings
from katacsi.doctor import collect_host, collect_places
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Place, PoolFacts
from katacsi.errors import KatacsiError
from katacsi.host import command, files

if TYPE_CHECKING:
    from pydantic import BaseModel

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pool

_LVM_VERSION: Final = re.compile(r"LVM version:\s*(\S+)")


async def look(loaded: Settings, node: HostFiles, *, contained: bool) -> tuple[PoolFacts, ...]:
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
        place = collect_places.place(own.directory, node, contained=contained)
    if isinstance(own, LvmSettings):
        locks = collect_places.place(own.lock_directory, node, contained=contained)
        version = await _lvm_version(own)
    unready = isinstance(own, LoopfileSettings) and _never_used(own)
    problem: str | Unread = ""
    available = None
    if not unready:
        try:
            available = (await (await pool.open()).capacity({})).available_bytes
        except KatacsiError as error:
            # Whoever is not root is refused much, and that says nothing of the pool.
            problem = Unread(error.message) if collect_host.user() else error.message
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
        answer = await command.run([*program, "version"], timeout_s=own.command_timeout)
    except KatacsiError as error:
        return Unread(error.message)
    found = _LVM_VERSION.search(answer.stdout.decode(errors="replace"))
    return found[1] if found else Unread(f"{own.program} version: names no version")
