"""The records that Kata would find: whether they can be read, and what they lead to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.doctor import hostfiles
from katacsi.errors import KatacsiError
from katacsi.findings import NOT_LOOKED, Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.host.offloop import off_loop
from katacsi.settings import Settings
from katacsi.volumes.publish import mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.directvolume.entries import Entry
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Place, Result

RECORDS: Final[Checks[Judge]] = Checks("Records")

#: As containerd and CRI-O name sandboxes.
_SANDBOX_ID: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A folder in the root of the records.

    Attributes:
        entry: what it says.
        ours: whether this driver published it, by its marks of this boot; `None`: no configuration was given.
        target_there: whether the path that it is for exists; `None`: nobody could look.
        device_there: likewise of the device that it names.
        device_number: that of its device, where it is one.
    """

    entry: Entry
    ours: bool | None = None
    target_there: bool | None = True
    device_there: bool | None = True
    device_number: int = 0


@dataclass(frozen=True, slots=True)
class Records:
    """The root in which Kata looks for records."""

    place: Place | Unread = NOT_LOOKED
    entries: tuple[Recorded, ...] | Unread = ()


async def find(settings: Settings | None, files: HostFiles, *, contained: bool) -> Records:
    """Look at the root, and at the records that Kata sees, which are those of the node."""
    root = (settings or Settings()).direct_volume_root
    place = hostfiles.place(root, files, contained=contained)
    try:
        entries = await off_loop(DirectVolumeWriter(files.here(files.resolved(str(root)))).listing)
    except KatacsiError as error:
        return Records(place, Unread(error.message))
    except OSError as error:
        return Records(place, Unread(f"{root}: {error.strerror}"))
    return Records(place, tuple(_recorded(entry, settings, files) for entry in entries))


def _recorded(entry: Entry, settings: Settings | None, files: HostFiles) -> Recorded:
    if entry.target is None:
        return Recorded(entry, ours=None if settings is None else False)
    return Recorded(
        entry,
        ours=_is_ours(entry.target, settings),
        target_there=_is_there(entry.target, files),
        device_there=_is_there(entry.record.device, files) if entry.record else None,
        device_number=_number(entry.record.device, files) if entry.record else 0,
    )


def _is_there(path: str, files: HostFiles) -> bool | None:
    status = files.status(path)
    return None if isinstance(status, Unread) else status is not None


def _number(path: str, files: HostFiles) -> int:
    status = files.status(path)
    return status.st_rdev if isinstance(status, os.stat_result) else 0


def _is_ours(target: str, settings: Settings | None) -> bool | None:
    """Whether the driver's marks of this boot name the target; a record without one is somebody else's."""
    if settings is None:
        return None
    fact = settings.state_path / "published" / mark.file_name(target)
    try:
        return fact.exists()
    except OSError:
        return None


# -- checks ---------------------------------------------------------------------------------------------


@RECORDS.add(
    "records-readable",
    "records that a runtime would stumble over",
    Harm.PODS,
    "runtime-rs fails every container of a path whose folder has no record, or a torn one. The Go runtime "
    "skips a torn record and shares the host's directory.",
)
def readable(node: Node) -> Iterator[Result]:
    """Say which folders have no record that can be read; only notes of what is not known to be ours."""
    entries = node.records.entries
    if isinstance(entries, Unread):
        yield unknown("records", entries.reason, "run doctor as root on the node")
        return
    broken = [recorded for recorded in entries if recorded.entry.record is None]
    for recorded in broken:
        if recorded.ours:
            yield failure(
                _subject(recorded),
                recorded.entry.problem,
                "delete the pod; NodeUnpublishVolume removes the record",
            )
        else:
            yield note(
                _subject(recorded),
                f"{recorded.entry.problem}; {_whose(recorded)}",
                "if no pod uses the path: katacsi direct-volume remove --volume-path PATH",
            )
    if not broken:
        yield ok("records", _count(len(entries)))


@RECORDS.add(
    "records-stale",
    "records whose target is gone",
    Harm.NONE,
    "A pod that is gone needs no record. katacsi removes its own at its next start, once no guest uses them.",
)
def stale(node: Node) -> Iterator[Result]:
    """Name records that nobody can use any more."""
    entries = node.records.entries
    if isinstance(entries, Unread):
        return
    for recorded in entries:
        if recorded.entry.record is None or recorded.target_there:
            continue
        if recorded.target_there is None:
            yield unknown(_subject(recorded), "whether its target is there cannot be looked at")
        elif recorded.ours:
            yield warning(_subject(recorded), "its target is gone", "restart katacsi on this node")
        else:
            yield note(_subject(recorded), f"its target is gone; {_whose(recorded)}")


@RECORDS.add(
    "records-device",
    "records whose device is gone",
    Harm.PODS,
    "A container that is created for such a path does not start.",
)
def device(node: Node) -> Iterator[Result]:
    """Name records that lead nowhere; those of pods that are gone are left to `records-stale`."""
    entries = node.records.entries
    if isinstance(entries, Unread):
        return
    for recorded in entries:
        if recorded.entry.record is None or recorded.device_there or recorded.target_there is False:
            continue
        named = recorded.entry.record.device
        if recorded.device_there is None:
            yield unknown(_subject(recorded), f"whether {named} is there cannot be looked at")
        elif recorded.ours:
            yield failure(
                _subject(recorded), f"its device {named} is gone", "delete the pod, and see katacsi's log"
            )
        else:
            yield note(_subject(recorded), f"its device {named} is gone; {_whose(recorded)}")


@RECORDS.add(
    "records-leftovers",
    "files beside a record",
    Harm.SLOW,
    "Kata takes every other file beside a record for the id of a sandbox, and asks the wrong one how full "
    "the volume is.",
)
def leftovers(node: Node) -> Iterator[Result]:
    """Name files that are no sandbox ids, such as the temporary ones of another writer."""
    entries = node.records.entries
    if isinstance(entries, Unread):
        return
    for recorded in entries:
        strange = [name for name in recorded.entry.sandbox_ids if not _SANDBOX_ID.fullmatch(name)]
        if strange and recorded.ours:
            yield warning(
                _subject(recorded), f"beside its record: {', '.join(strange)}", "delete these files"
            )
        elif strange:
            yield note(_subject(recorded), f"beside its record: {', '.join(strange)}; {_whose(recorded)}")


def _subject(recorded: Recorded) -> str:
    return recorded.entry.target or recorded.entry.name


def _whose(recorded: Recorded) -> str:
    return "whose it is, is not known" if recorded.ours is None else "it is not ours"


def _count(number: int) -> str:
    return "one, readable" if number == 1 else f"{number or 'none'}{', all readable' if number else ''}"
