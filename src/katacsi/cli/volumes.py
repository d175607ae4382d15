"""`katacsi volumes`: what is in the pools and where it is in use, with the driver up or down.

The pools are opened for viewing: nothing is locked, repaired or attached, so a running driver does not
notice. What is staged and published comes from the driver's facts of this boot.
"""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from katacsi import app, logs, settings
from katacsi.backends.api import FormatState
from katacsi.cli.options import config_option
from katacsi.cli.output import Output, output_option, print_facts, print_json, print_table
from katacsi.errors import KatacsiError, NotFound
from katacsi.model import MalformedId, VolumeId, format_size
from katacsi.volumes.publish_state import PublishState

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Backend, Device, Volume
    from katacsi.settings import Settings
    from katacsi.volumes.pools import Pools
    from katacsi.volumes.publish_state import Published, Staged

#: Volumes that are asked of a pool at once.
_PAGE = 500
_AGES = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class _View:
    """A volume, and where this node has it."""

    volume: Volume
    staged: list[Staged]
    published: list[Published]


@dataclass(frozen=True, slots=True)
class _Detail:
    """What takes a look at the device."""

    backend_name: str
    device: Device | None


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
    views, errors = asyncio.run(_list(loaded, only))
    if output == "json":
        print_json([_as_json(view) for view in views])
    else:
        now = time.time()
        print_table(
            ("VOLUME", "POOL", "SIZE", "FORMAT", "USED BY", "NOTES", "CONDITION", "AGE"),
            [_row(view, now) for view in views],
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
        print_json({**_as_json(view), "backend": detail.backend_name, "device": device})
        return
    print_facts(_facts(view, detail, time.time()))


# -- looking -------------------------------------------------------------------------------------------


def _pools(loaded: Settings) -> Pools:
    # The node's name is of no use to a view, but backends are told one.
    return app.pools_of(loaded, platform.node() or "localhost", read_only=True)


async def _list(loaded: Settings, only: str | None) -> tuple[list[_View], list[KatacsiError]]:
    pools = _pools(loaded)
    chosen = [pools.choose(only)] if only else sorted(pools, key=lambda pool: pool.name)
    state = await _state(loaded)
    found: list[_View] = []
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


async def _show(loaded: Settings, wanted: str) -> tuple[_View, _Detail]:
    pools = _pools(loaded)
    try:
        backend, volume = await _found(pools, wanted)
        condition = await backend.condition(volume.id)
        device = await backend.attached(volume.id)
        backend_name = next(pool.backend_name for pool in pools if pool.name == volume.id.pool)
        view = _view(await _state(loaded), replace(volume, condition=condition))
        return view, _Detail(backend_name, device)
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


async def _state(loaded: Settings) -> PublishState:
    """Read the driver's facts of this boot; without any, nothing was staged. Nothing is made here."""
    state = PublishState(loaded.state_path)
    if all((loaded.state_path / folder).is_dir() for folder in ("published", "staged")):
        await state.load()
    return state


def _view(state: PublishState, volume: Volume) -> _View:
    return _View(volume, state.stagings_of(str(volume.id)), state.targets_of(str(volume.id)))


# -- showing -------------------------------------------------------------------------------------------


def _row(view: _View, now: float) -> tuple[str, ...]:
    volume = view.volume
    return (
        volume.csi_name,
        volume.id.pool,
        format_size(volume.size_bytes),
        _format(volume),
        _used_by(view),
        ", ".join(_notes(volume)),
        _condition(volume),
        _age(volume.created_at, now),
    )


def _format(volume: Volume) -> str:
    if not _is_read(volume):
        return "?"
    facts = volume.facts
    match facts.format:
        case FormatState.FORMATTED:
            return facts.fs_type
        case FormatState.FORMATTING:
            return f"{facts.fs_type} (begun)"
        case FormatState.UNFORMATTED:
            return "none"


def _is_read(volume: Volume) -> bool:
    """Whether the volume's record could be read; else its facts are defaults, and say nothing."""
    return not volume.condition.abnormal or bool(volume.created_at)


def _used_by(view: _View) -> str:
    if view.published:
        return ", ".join(sorted({published.mode for published in view.published}))
    return "staged" if view.staged else ""


def _notes(volume: Volume) -> list[str]:
    facts = volume.facts
    notes = []
    if facts.guest_written:
        notes.append("guest-written")
    if facts.pending_size:
        notes.append(f"grows-to {format_size(facts.pending_size)}")
    if volume.source is not None:
        notes.append("copy")
    return notes


def _condition(volume: Volume) -> str:
    return ("ABNORMAL: " if volume.condition.abnormal else "") + volume.condition.message


def _age(created_at: float, now: float) -> str:
    seconds = max(int(now - created_at), 0)
    if not created_at:
        return "?"
    for unit, letter in _AGES:
        if seconds >= unit:
            return f"{seconds // unit}{letter}"
    return f"{seconds}s"


def _facts(view: _View, detail: _Detail, now: float) -> list[tuple[str, str]]:
    volume, facts = view.volume, view.volume.facts
    return [
        ("Name", volume.csi_name),
        ("Id", str(volume.id)),
        ("Pool", f"{volume.id.pool} ({detail.backend_name})"),
        ("Size", f"{format_size(volume.size_bytes)} ({volume.size_bytes} bytes)"),
        ("Filesystem", " ".join(filter(None, (_format(volume), facts.fs_uuid)))),
        ("Source", str(volume.source.id) if volume.source else ""),
        ("Notes", ", ".join(_notes(volume))),
        ("Device", str(detail.device.path) if detail.device else "not attached here"),
        *(("Staged", staged.path) for staged in view.staged),
        *(("Published", _published(published)) for published in view.published),
        *(("Parameter", f"{key} = {value}") for key, value in sorted(volume.parameters.items())),
        *(("Attribute", f"{key} = {value}") for key, value in sorted(volume.attributes.items())),
        ("Condition", _condition(volume)),
        ("Created", _created(volume.created_at, now)),
    ]


def _published(published: Published) -> str:
    return f"{published.mode}{', read-only' if published.read_only else ''} at {published.path}"


def _created(created_at: float, now: float) -> str:
    if not created_at:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(created_at))} UTC ({_age(created_at, now)} ago)"


def _as_json(view: _View) -> dict[str, Any]:
    volume, facts = view.volume, view.volume.facts
    return {
        "id": str(volume.id),
        "name": volume.csi_name,
        "pool": volume.id.pool,
        "size_bytes": volume.size_bytes,
        "format": facts.format.value if _is_read(volume) else None,
        "fs_type": facts.fs_type,
        "fs_uuid": facts.fs_uuid,
        "guest_written": facts.guest_written,
        "pending_size_bytes": facts.pending_size,
        "source": str(volume.source.id) if volume.source else None,
        "parameters": dict(volume.parameters),
        "attributes": dict(volume.attributes),
        "condition": {"abnormal": volume.condition.abnormal, "message": volume.condition.message},
        "created_at": volume.created_at,
        "staged": [staged.path for staged in view.staged],
        "published": [
            {"path": p.path, "mode": p.mode, "read_only": p.read_only, "device": p.device}
            for p in view.published
        ],
    }
