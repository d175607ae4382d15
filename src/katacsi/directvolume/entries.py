"""What lies in the root of the records, whoever put it there: one entry for each folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.directvolume.names import RECORD_FILE, decoded, is_temporary
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.errors import HostError, KatacsiError
from katacsi.host import files

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the shared root, whoever made it.

    Attributes:
        target: the path it is for; `None` when its name is not Kata's encoding of one.
        name: the folder's name.
        record: what it says; `None` when that cannot be read.
        problem: why there is no target or no record; empty when both are there.
        sandbox_ids: what Go shims have left, dead ones too.
    """

    target: str | None
    name: str
    record: DirectVolumeRecord | None
    problem: str = ""
    sandbox_ids: tuple[str, ...] = ()


def listing(root: Path) -> list[Entry]:
    """List all entries by name; one that nobody can read is listed with its problem. It blocks.

    Raises:
        HostError: the root is there and cannot be read.
    """
    try:
        names = sorted(path.name for path in root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{root}: the records' root cannot be read: {error.strerror}") from error
    return [_entry(root, name) for name in names if not is_temporary(decoded(name) or "")]


def _entry(root: Path, name: str) -> Entry:
    target = decoded(name)
    problem = "" if target else "the name is not Kata's encoding of a path"
    record: DirectVolumeRecord | None = None
    ids: tuple[str, ...] = ()
    try:
        ids = tuple(sorted(file.name for file in (root / name).iterdir() if file.name != RECORD_FILE))
        if (data := files.read(root / name / RECORD_FILE)) is None:
            problem = problem or f"{root / name}: there is no {RECORD_FILE}"
        else:
            record = DirectVolumeRecord.from_json(data, root / name / RECORD_FILE)
    except KatacsiError as error:
        problem = problem or error.message
    except OSError as error:
        problem = problem or f"{root / name}: cannot be read: {error.strerror}"
    return Entry(target, name, record, problem, ids)
