"""What was staged and published since boot: one small file a path, kept where a reboot removes it.

Mounts and Kata's records go at a reboot, and so do these marks: the folder is on tmpfs. They say what was
asked for, so that a retry can be told from another request; what the kernel shows wins over them. All of it
blocks for a moment, so changes are made in host steps, beside the change of the host that they are about.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiofiles
import structlog

from katacsi.errors import CorruptRecord, HostError
from katacsi.host import directories, files
from katacsi.host.offloop import off_loop
from katacsi.volumes.publish.mark import FOLDERS, Frozen, Mark, Published, Staged, decoded, encoded, file_name

log = structlog.get_logger(__name__)


class Marks:
    """The marks of one node, in memory and in files; a file is written before the index knows it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._frozen: dict[str, Frozen] = {}
        self._published: dict[str, Published] = {}
        self._staged: dict[str, Staged] = {}
        self._targets: defaultdict[str, set[str]] = defaultdict(set)
        self._stagings: defaultdict[str, set[str]] = defaultdict(set)
        # Host steps change the index, and the event loop reads it.
        self._lock = threading.Lock()
        self._in_memory = False

    async def load(self, *, view: bool = False) -> None:
        """Read the marks of this boot. One that cannot be read is reported and left alone.

        For a view nothing is made or cleared up: a driver may be at work in the folder.
        """
        for kind, folder in FOLDERS.items():
            for file in await off_loop(_viewed if view else _files_in, self._directory / folder):
                try:
                    async with aiofiles.open(file, "rb") as opened:
                        self._index(decoded(file, await opened.read(), kind))
                except FileNotFoundError:
                    continue  # taken back since the folder was listed
                except (CorruptRecord, OSError) as error:
                    log.error("a mark of this boot cannot be read", file=str(file), error=str(error))
        self._in_memory = not view and await off_loop(directories.in_memory, self._directory)

    def staged(self, path: str) -> Staged | None:
        """What a staging path was staged for."""
        return self._staged.get(path)

    def published(self, target: str) -> Published | None:
        """What a target was published for."""
        return self._published.get(target)

    def stagings_of(self, volume_id: str) -> list[Staged]:
        """Where a volume is staged."""
        with self._lock:
            return [self._staged[path] for path in sorted(self._stagings.get(volume_id, ()))]

    def targets_of(self, volume_id: str) -> list[Published]:
        """Where a volume is published."""
        with self._lock:
            return [self._published[path] for path in sorted(self._targets.get(volume_id, ()))]

    def all_published(self) -> list[Published]:
        """Every published target."""
        with self._lock:
            return list(self._published.values())

    def all_staged(self) -> list[Staged]:
        """Every staging path."""
        with self._lock:
            return list(self._staged.values())

    def all_frozen(self) -> list[Frozen]:
        """Every freeze of ours that was not taken back."""
        with self._lock:
            return list(self._frozen.values())

    def add(self, item: Mark) -> None:
        """Remember a staging, a publish or a freeze; the same again changes nothing."""
        if self._by_path(item).get(item.path) == item:
            return
        _write(self._file(item), encoded(item))
        self._index(item)

    async def added(self, item: Mark) -> None:
        """Do as `add` where it is all there is to do; on tmpfs, which never waits, without a host step."""
        if self._in_memory:
            self.add(item)
        else:
            await off_loop(self.add, item)

    async def removed(self, item: Mark) -> None:
        """Do as `remove` where it is all there is to do; see `added`."""
        if self._in_memory:
            self.remove(item)
        else:
            await off_loop(self.remove, item)

    def remove(self, item: Mark) -> None:
        """Forget a staging, a publish or a freeze."""
        files.ensure_absent(self._file(item))
        with self._lock:
            self._by_path(item).pop(item.path, None)
            if isinstance(item, Published):
                _discard(self._targets, item)
            elif isinstance(item, Staged):
                _discard(self._stagings, item)

    def _index(self, item: Mark) -> None:
        with self._lock:
            self._by_path(item)[item.path] = item
            if isinstance(item, Published):
                self._targets[item.volume_id].add(item.path)
            elif isinstance(item, Staged):
                self._stagings[item.volume_id].add(item.path)

    def _by_path(self, item: Mark) -> dict[str, Any]:
        if isinstance(item, Published):
            return self._published
        return self._staged if isinstance(item, Staged) else self._frozen

    def _file(self, item: Mark) -> Path:
        return Path(f"{self._directory}/{FOLDERS[type(item)]}/{file_name(item.path)}")


def _discard(index: dict[str, set[str]], item: Mark) -> None:
    paths = index.get(item.volume_id)
    if paths is not None:
        paths.discard(item.path)
        if not paths:
            del index[item.volume_id]


def _write(file: Path, data: bytes) -> None:
    try:
        files.write_atomically(file, data, durable=False)
    except HostError:
        # The folder goes with a reboot; making it only when a write fails spares a look at every publish.
        files.ensure_directory(file.parent)
        files.write_atomically(file, data, durable=False)


def _files_in(directory: Path) -> list[Path]:
    files.ensure_directory(directory)
    # Nobody else writes here, and no call was let in yet: what is half written is a crash's.
    files.remove_stale_temporaries(directory, older_than_s=0)
    return _viewed(directory)


def _viewed(directory: Path) -> list[Path]:
    names = files.list_directory(directory) if directory.exists() else []
    return [directory / name for name in names if name.endswith(".json")]
