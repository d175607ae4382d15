"""Where a pool keeps what: `volumes/<name>/` and `snapshots/<name>/`, each a folder with a record and a disk.

A folder under its plain name is complete. `.creating-<name>` is not an object yet and `.deleting-<name>` is
none any more; either may be removed when nobody works on it. So may one whose record is called `.gone` (in a
full pool a new name can have no room, but a record can be renamed to as short a name in its own folder).
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.errors import HostError, OutOfSpace
from katacsi.host import directories, files
from katacsi.model import is_storage_name

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = "pool.json"
LOCK = ".lock"
DISK = "disk.img"
#: The cut of a source, from which a thick copy is made.
CUT = "cut.img"

_CREATING = ".creating-"
_DELETING = ".deleting-"
#: No longer than the names of records.
_GONE = ".gone"


# Each is asked for a dozen times in the life of a volume, and to put one together costs more than a look
# at its file.
@functools.lru_cache(maxsize=256)
def _path(directory: Path, name: str) -> Path:
    return directory / name


@dataclass(frozen=True, slots=True)
class ObjectFolder:
    """One of the pool's two folders of objects."""

    kind: str  #: "volume" or "snapshot"
    directory: Path
    record_name: str

    def home(self, name: str) -> Path:
        """Give the folder of a complete object."""
        return _path(self.directory, name)

    def record(self, name: str) -> Path:
        """Give the path of an object's record."""
        return _path(self.directory, f"{name}/{self.record_name}")

    def disk(self, name: str) -> Path:
        """Give the path of an object's bytes."""
        return _path(self.directory, f"{name}/{DISK}")

    def names(self) -> list[str]:
        """Give the names of what may be objects; what cannot be one is somebody else's."""
        return [name for name in directories.list_directory(self.directory) if is_storage_name(name)]

    def begin(self, name: str) -> Path:
        """Give an empty folder in which the object can be built; what a crash left of it is removed."""
        building = self._building(name)
        self._clear(building)
        if self.is_gone(name):
            self.finish_removal(name)
        directories.ensure_directory(building)
        return building

    def commit(self, name: str) -> None:
        """Turn what was built into the object; from here on it exists."""
        directories.rename(self._building(name), self.home(name))

    def abandon(self, name: str) -> None:
        """Remove what was built."""
        self._clear(self._building(name))

    def remove(self, name: str) -> None:
        """Remove the object, with whatever lies in its folder: after a rename it is gone.

        Room is needed for nothing: not for a name, where the filesystem is full, nor for a block.
        """
        dying = self._dying(name)
        self._clear(dying)
        try:
            directories.rename(self.home(name), dying)
        except OutOfSpace:
            self._give_up(name)
        directories.remove_tree(dying)

    def is_gone(self, name: str) -> bool:
        """Whether the object was removed, and what is left of it in its folder is nobody's."""
        return _path(self.directory, f"{name}/{_GONE}").exists()

    def finish_removal(self, name: str) -> None:
        """Free the bytes of an object whose removal stopped half-way."""
        if self.is_gone(name):
            self._empty(name)
        self._clear(self._dying(name))

    def _give_up(self, name: str) -> None:
        """Remove an object in a filesystem that has no room for its name as a dying one."""
        home = self.home(name)
        try:
            directories.rename(self.record(name), home / _GONE)
        except OutOfSpace:
            # Not even that (XFS with parent pointers). The object is still one until its folder has another
            # name, so a call that is repeated after a crash finds it, and ends here.
            files.ensure_absent(self.disk(name))
            directories.rename(home, self._dying(name))
        else:
            self._empty(name)

    def _empty(self, name: str) -> None:
        """Free the bytes of an object that is gone; its folder has room for its last name then."""
        home = self.home(name)
        for file in (DISK, CUT):
            files.ensure_absent(home / file)
        with contextlib.suppress(OutOfSpace):  # its bytes gave no room for a name; the next start tries again
            directories.rename(home, self._dying(name))

    def _building(self, name: str) -> Path:
        return _path(self.directory, f"{_CREATING}{name}")

    def _dying(self, name: str) -> Path:
        return _path(self.directory, f"{_DELETING}{name}")

    def half_done(self) -> list[Path]:
        """Give the folders of objects that are not complete."""
        return [
            self.directory / entry
            for entry in directories.list_directory(self.directory)
            if entry.startswith((_CREATING, _DELETING)) and is_storage_name(entry.split("-", 1)[1])
        ]

    def every_disk(self) -> list[Path]:
        """Give the paths at which there may be bytes of objects, complete or not."""
        return [
            *map(self.disk, self.names()),
            *(half / file for half in self.half_done() for file in (DISK, CUT)),
        ]

    def discard(self, half_done: Path) -> bool:
        """Remove a folder of `half_done`; False, nothing removed, if it holds what katacsi never makes."""
        ours = {self.record_name, DISK, CUT, _GONE}
        for entry in directories.list_directory(half_done):
            if entry not in ours and not entry.startswith(files.TEMPORARY_PREFIX):
                return False
        directories.remove_tree(half_done)
        return True

    def _clear(self, folder: Path) -> None:
        # Asked first, because the answer is nearly always no.
        if folder.exists() and not self.discard(folder):
            raise HostError(f"{folder} holds files that katacsi did not make; move them away, then retry")
