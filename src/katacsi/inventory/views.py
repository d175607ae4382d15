"""How a volume is shown: as a row, as a list of facts, as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from katacsi.backends.api import FormatState
from katacsi.model import format_size
from katacsi.volumes.publish import kubeletpaths

if TYPE_CHECKING:
    from katacsi.backends.api import Device, Volume
    from katacsi.volumes.publish.mark import Published, Staged

HEADINGS = ("VOLUME", "POOL", "SIZE", "FORMAT", "USED BY", "NOTES", "CONDITION", "AGE")

_AGES = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, slots=True)
class View:
    """A volume, and where this node has it.

    `orphaned`: no PersistentVolume of the cluster leads to it; None: nobody asked, or could tell.
    """

    volume: Volume
    staged: list[Staged]
    published: list[Published]
    orphaned: bool | None = None


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
        format_of(volume),
        used_by(view),
        ", ".join(notes_of(view)),
        condition_of(volume),
        age_of(volume.created_at, now),
    )


def format_of(volume: Volume) -> str:
    """Say how far the filesystem has come."""
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


def used_by(view: View) -> str:
    """Say how pods have the volume."""
    if view.published:
        return ", ".join(sorted({published.mode.value for published in view.published}))
    return "staged" if view.staged else ""


def notes_of(view: View) -> list[str]:
    """Say what is special about the volume, a few words each."""
    volume, facts = view.volume, view.volume.facts
    notes = ["orphan"] if view.orphaned else []
    if facts.guest_written:
        notes.append("guest-written")
    if facts.pending_size:
        notes.append(f"grows-to {format_size(facts.pending_size)}")
    if volume.source is not None:
        notes.append("copy")
    return notes


def condition_of(volume: Volume) -> str:
    """Say how healthy the volume is."""
    return ("ABNORMAL: " if volume.condition.abnormal else "") + volume.condition.message


def age_of(created_at: float, now: float) -> str:
    """Say how old a thing is, in its largest unit."""
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
        ("Filesystem", " ".join(filter(None, (format_of(volume), known.fs_uuid)))),
        ("Source", str(volume.source.id) if volume.source else ""),
        ("Notes", ", ".join(notes_of(view))),
        ("Device", str(detail.device.path) if detail.device else "not attached here"),
        *(("Staged", staged.path) for staged in view.staged),
        *(("Published", _published(published)) for published in view.published),
        *(("Parameter", f"{key} = {value}") for key, value in sorted(volume.parameters.items())),
        *(("Attribute", f"{key} = {value}") for key, value in sorted(volume.attributes.items())),
        ("Condition", condition_of(volume)),
        ("Created", _created(volume.created_at, now)),
    ]


def _published(published: Published) -> str:
    pod = f" for {pod}" if (pod := pod_of(published)) else ""
    return f"{published.mode.value}{', read-only' if published.read_only else ''}{pod} at {published.path}"


def _created(created_at: float, now: float) -> str:
    if not created_at:
        return ""
    return (
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(created_at))} UTC ({age_of(created_at, now)} ago)"
    )


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
        "orphaned": view.orphaned,
        "devices": list(devices(view)),
        "staged": [staged.path for staged in view.staged],
        "published": [published_as_json(published) for published in view.published],
    }


def devices(view: View) -> tuple[str, ...]:
    """Give the devices that the volume was staged with, the backend's first; by the marks alone."""
    return view.staged[0].devices if view.staged else ()


def published_as_json(published: Published) -> dict[str, Any]:
    """Give what a program is told of a volume's place in a pod."""
    claimed = kubeletpaths.read(published.path)
    return {
        "path": published.path,
        "mode": published.mode.value,
        "read_only": published.read_only,
        "device": published.device,
        "pod": published.pod or None,
        "pod_uid": claimed.pod_uid or None,
        "persistent_volume": claimed.pv or None,
    }


def pod_of(published: Published) -> str:
    """Name the pod that has a volume as well as it is known: `namespace/name`, else its UID, else nothing."""
    claimed = kubeletpaths.read(published.path)
    return published.pod or (f"pod {claimed.pod_uid}" if claimed.pod_uid else "")
