"""The records that were read last: a volume's is read ten times from its creation to its deletion."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

#: So many are remembered.
LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """One look at a file, taken before it is read: what is remembered of it, and what it can be told by."""

    record: T | None
    version: tuple[int, ...] | None
    writes: int


class Remembered(Generic[T]):
    """Records by name, each for as long as its file is the one that was read; the file decides."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[tuple[int, ...], T]] = {}
        self._writes = 0
        # Steps run in threads, and to see that nothing was written and to keep a record are one.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Count them."""
        return len(self._records)

    def __contains__(self, name: str) -> bool:
        """Whether a record of that name is kept, be it still true or not."""
        return name in self._records

    def look(self, name: str, path: Path) -> Look[T]:
        """Give the record of a file that did not change, or else what `keep` wants to know later."""
        # First this: a write that ends from here on is seen by `keep`.
        writes, version = self._writes, _version(path)
        kept = self._records.get(name)
        return Look(kept[1] if kept is not None and kept[0] == version else None, version, writes)

    def keep(self, name: str, look: Look[T], record: T) -> None:
        """Remember what was read after that look, unless a record was written meanwhile."""
        with self._lock:
            if look.version is None or look.writes != self._writes:
                return
            while len(self._records) >= LIMIT:
                self._records.pop(next(iter(self._records)))
            self._records[name] = (look.version, record)

    def forget(self, name: str) -> None:
        """Note that a record was written; within one tick of the clock its times do not tell."""
        with self._lock:
            self._writes += 1
            self._records.pop(name, None)


def _version(path: Path) -> tuple[int, ...] | None:
    """Tell a file and its content from any other that has been there; None where there is none to be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
