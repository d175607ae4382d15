"""`katacsi volumes`: what is in the pools and where it is in use, with the driver up or down.

The pools are opened for viewing: nothing is locked, repaired or attached, so a running driver does not
notice. What is staged and published comes from the driver's marks of this boot.
"""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from katacsi import app, logs, settings
from katacsi.cli import views
from katacsi.cli.options import config_option
from katacsi.cli.output import Output, output_option, print_facts, print_json, print_table
from katacsi.cli.views import Detail, View
from katacsi.errors import KatacsiError, NotFound, SettingsError
from katacsi.model import MalformedId, VolumeId
from katacsi.volumes.publish.marks import Marks

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Backend, Volume
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pools

#: Volumes that are asked of a pool at once.
_PAGE = 500


@click.group()
def volumes() -> None:
    """List and show the volumes of the pools, with the driver up or down."""


@volumes.command("list")
@config_option
@click.option("--pool", "only", metavar="NAME", help="Only the volumes of this pool.")
@output_option()
def list_(config: Path, only: str | None, output: Output) -> None:
    """List the volumes of all pools.

    FORMAT says how far the filesystem has come; USED BY how a pod has the volume: direct (a Kata guest),
    host or block. NOTES: guest-written (the host kernel does not mount it any more), grows-to (the
    filesystem follows when the pod is restarted), copy (it began as a copy). A pool that cannot be read is
    named on stderr, the others are listed, and the exit code is 1.
    """
    logs.configure("error", "console")
    loaded = settings.load(config)
    found, errors = asyncio.run(_list(loaded, only))
    if output == "json":
        print_json([views.as_json(view) for view in found])
    else:
        now = time.time()
        print_table(
            views.HEADINGS,
            [views.row(view, now) for view in found],
            empty="" if errors else "There are no volumes.",
        )
    for error in errors:
        click.echo(f"Error: {error.message}", err=True)
    if errors:
        click.get_current_context().exit(1)


@volumes.command()
@config_option
@click.argument("volume")
@output_option()
def show(config: Path, volume: str, output: Output) -> None:
    """Show one volume, by its id or by the name it was created under."""
    logs.configure("error", "console")
    loaded = settings.load(config)
    view, detail = asyncio.run(_show(loaded, volume))
    if output == "json":
        device = str(detail.device.path) if detail.device else None
        print_json({**views.as_json(view), "backend": detail.backend_name, "device": device})
        return
    print_facts(views.facts(view, detail, time.time()))


# -- looking -------------------------------------------------------------------------------------------


def _pools(loaded: Settings) -> Pools:
    # The node's name is of no use to a view, but backends are told one.
    return app.pools_of(loaded, platform.node() or "localhost", read_only=True)


async def _list(loaded: Settings, only: str | None) -> tuple[list[View], list[KatacsiError]]:
    pools = _pools(loaded)
    chosen = [pool for pool in sorted(pools, key=lambda pool: pool.name) if only in (None, pool.name)]
    if not chosen:
        known = ", ".join(pool.name for pool in pools)
        raise SettingsError(f"--pool {only}: there is no such pool; the configuration has {known}")
    state = await _state(loaded)
    found: list[View] = []
    errors: list[KatacsiError] = []
    try:
        for pool in chosen:
            try:
                found += [_view(state, volume) for volume in await _all(await pool.open())]
            except KatacsiError as error:
                errors.append(error)
    finally:
        await pools.close()
    return found, errors


async def _all(backend: Backend) -> list[Volume]:
    found: list[Volume] = []
    cursor = ""
    while True:
        page = await backend.list(cursor, _PAGE)
        found += page.items
        cursor = page.next_cursor
        if not cursor:
            return found


async def _show(loaded: Settings, wanted: str) -> tuple[View, Detail]:
    pools = _pools(loaded)
    try:
        backend, volume = await _found(pools, wanted)
        condition = await backend.condition(volume.id)
        device = await backend.attached(volume.id)
        backend_name = next(pool.backend_name for pool in pools if pool.name == volume.id.pool)
        view = _view(await _state(loaded), replace(volume, condition=condition))
        return view, Detail(backend_name, device)
    finally:
        await pools.close()


async def _found(pools: Pools, wanted: str) -> tuple[Backend, Volume]:
    """Find a volume by id or name.

    Raises:
        NotFound: it is proven absent in every pool.
        KatacsiError: it is in none of the pools that can be read, and one cannot.
    """
    try:
        parsed = VolumeId.parse(wanted)
    except MalformedId:
        return await _by_name(pools, wanted)
    backend = await pools.holding(parsed)
    volume = await backend.get(parsed)
    if volume is None:
        raise NotFound(f"volume {wanted}: does not exist; see `katacsi volumes list`")
    return backend, volume


async def _by_name(pools: Pools, wanted: str) -> tuple[Backend, Volume]:
    unread: KatacsiError | None = None
    for pool in pools:
        try:
            backend = await pool.open()
            volume = await backend.find(wanted)
        except KatacsiError as error:
            unread = error
            continue
        if volume is not None:
            return backend, volume
    if unread is not None:
        raise unread
    raise NotFound(f"volume {wanted!r}: no pool has a volume of this name; see `katacsi volumes list`")


async def _state(loaded: Settings) -> Marks:
    """Read the driver's marks of this boot; without any, nothing was staged. Nothing is made here."""
    state = Marks(loaded.state_path)
    if all((loaded.state_path / folder).is_dir() for folder in ("published", "staged")):
        await state.load()
    return state


def _view(state: Marks, volume: Volume) -> View:
    return View(volume, state.stagings_of(str(volume.id)), state.targets_of(str(volume.id)))
