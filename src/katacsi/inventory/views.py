"""How a volume is shown: as a row, as a list of facts, as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from katacsi.backends.api import FormatState
from katacsi.model import format_size

if TYPE_CHECKING:
    from katacsi.backends.api import Device, Volume
    from katacsi.volumes.publish.marks import Published, Staged

HEADINGS = ("VOLUME", "POOL", "SIZE", "FORMAT", "USED BY", "NOTES", "CONDITION", "AGE")

_AGES = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class View:
    """A volume, and where this node has it."""

    volume: Volume
    staged: list[Staged]
    published: list[Published]


@dataclass(frozen=True, slots=True)
class Detail:
    """What takes a look at the device."""

    backend_name: str
    device: Device | None


def row(view: View, now: float) -> tuple[str, ...]:
    """Give the cells under `HEADINGS`."""
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


def _used_by(view: View) -> str:
    if view.published:
        return ", ".join(sorted({published.mode.value for published in view.published}))
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


def facts(view: View, detail: Detail, now: float) -> list[tuple[str, str]]:
    """Give all that is known, by name."""
    volume, known = view.volume, view.volume.facts
    return [
        ("Name", volume.csi_name),
        ("Id", str(volume.id)),
        ("Pool", f"{volume.id.pool} ({detail.backend_name})"),
        ("Size", f"{format_size(volume.size_bytes)} ({volume.size_bytes} bytes)"),
        ("Filesystem", " ".join(filter(None, (_format(volume), known.fs_uuid)))),
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
    return f"{published.mode.value}{', read-only' if published.read_only else ''} at {published.path}"


def _created(created_at: float, now: float) -> str:
    if not created_at:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(created_at))} UTC ({_age(created_at, now)} ago)"


def as_json(view: View) -> dict[str, Any]:
    """Give what a program is told."""
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
            {"path": p.path, "mode": p.mode.value, "read_only": p.read_only, "device": p.device}
            for p in view.published
        ],
    }
