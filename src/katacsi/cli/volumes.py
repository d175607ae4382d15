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
from katacsi.cli.options import config_option
from katacsi.cli.output import Output, output_option, print_facts, print_json, print_table
from katacsi.errors import KatacsiError, SettingsError
from katacsi.inventory import collecting, views
from katacsi.inventory.views import Detail, View
from katacsi.metrics import Metrics
from katacsi.volumes import orphans

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pools
    from katacsi.volumes.publish.marks import Marks


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
    filesystem follows when the pod is restarted), copy (it began as a copy), orphan (with kube.enabled: no
    PersistentVolume leads to it; katacsi never deletes it by itself). A pool that cannot be read is
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
    marks = await collecting.marks_of(loaded)
    found: list[View] = []
    errors: list[KatacsiError] = []
    try:
        for pool in chosen:
            try:
                found += await collecting.views_of(pool, marks)
            except KatacsiError as error:
                errors.append(error)
    finally:
        await pools.close()
    return await _with_orphans(loaded, found, marks), errors


async def _with_orphans(loaded: Settings, found: list[View], marks: Marks) -> list[View]:
    """Ask the cluster which of the volumes are orphans, where it may be asked at all."""
    cluster = app.cluster_of(loaded, platform.node() or "localhost", Metrics.create())
    if cluster is None:
        return found
    try:
        await cluster.start()
        ids = await orphans.among([view.volume for view in found], marks, loaded, cluster)
    except KatacsiError as error:
        click.echo(f"Note: which volumes are orphans is not known: {error.message}", err=True)
        return found
    finally:
        await cluster.close()
    return collecting.marked(found, ids)


async def _show(loaded: Settings, wanted: str) -> tuple[View, Detail]:
    pools = _pools(loaded)
    try:
        backend, volume = await collecting.find(pools, wanted)
        condition = await backend.condition(volume.id)
        device = await backend.attached(volume.id)
        backend_name = next(pool.backend_name for pool in pools if pool.name == volume.id.pool)
        marks = await collecting.marks_of(loaded)
        return collecting.view(replace(volume, condition=condition), marks), Detail(backend_name, device)
    finally:
        await pools.close()
