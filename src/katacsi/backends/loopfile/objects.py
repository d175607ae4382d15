"""What volumes and snapshots share: they are made, grown and removed so that no crash leaves half of one."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Generic

from katacsi.backends.loopfile.records import AnyRecord, parse
from katacsi.backends.loopfile.settings import Allocation
from katacsi.errors import CorruptRecord, KatacsiError
from katacsi.host import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from katacsi.backends.loopfile.layout import Shelf
    from katacsi.backends.loopfile.ledger import Ledger
    from katacsi.backends.loopfile.pool import Pool


#: So many records are remembered: a volume's is read ten times from its creation to its deletion.
_REMEMBERED = 64
#: A record that cannot be read is read again after so many seconds: it may be about to be written.
_REREAD_PAUSES_S = (0.001, 0.01)


class Objects(Generic[AnyRecord]):
    """The objects of one kind in a pool."""

    def __init__(self, pool: Pool, shelf: Shelf, model: type[AnyRecord], ledger: Ledger) -> None:
        self.shelf = shelf
        self._pool = pool
        self._model = model
        self._ledger = ledger
        #: Records as they were read last, with what tells the file from any other; the file decides.
        self._remembered: dict[str, tuple[tuple[int, ...], AnyRecord]] = {}
        #: How many records were written; what was read while one was is not remembered.
        self._writes = 0
        # Steps run in threads, and to see that nothing was written and to remember are one.
        self._remembering = threading.Lock()

    def read(self, name: str) -> AnyRecord | None:
        """Read the record of an object; None means proven absent.

        Raises:
            CorruptRecord: there is an object, but what is written about it cannot be used.
        """
        path = self.shelf.record(name)
        writes = self._writes
        # Taken before it is read: should somebody edit it in between, the next look sees another file.
        version = _version(path)
        remembered = self._remembered.get(name)
        if remembered is not None and remembered[0] == version:
            return remembered[1]
        data = files.read(path)
        if data is not None:
            record = self._parsed(path, data)
            self._remember(name, version, record, writes)
            return record
        if path.parent.exists():
            raise CorruptRecord(
                f"{path.parent}: has no {path.name}; restore it from a backup, or move the folder away"
            )
        self._pool.verify()
        return None

    def write(self, record: AnyRecord) -> None:
        """Replace an object's record; durable at once, for mkfs and guests rely on what it says."""
        try:
            files.write_atomically(self.shelf.record(record.name), record.encode())
        finally:
            self._forget(record.name)

    def overwrite(self, name: str, change: Callable[[int], tuple[int, bytes]]) -> None:
        """Change a part of an object's record; durable at once.

        `change` is given the length of the record and gives the offset and the bytes, a sector at most.
        """
        path = self.shelf.record(name)
        try:
            files.overwrite(path, *change(path.stat().st_size))
        finally:
            self._forget(name)

    def make(self, record: AnyRecord, allocation: Allocation, fill: Callable[[Path], None]) -> None:
        """Make an object, or nothing; `fill` is given the path at which it makes the disk.

        Raises:
            OutOfSpace: the pool cannot promise its size, or is full.
        """
        self._forget(record.name)
        disk = self.shelf.disk(record.name)
        self._ledger.promise(disk, record.size_bytes, allocation, files.room(self._pool.directory))
        try:
            building = self.shelf.begin(record.name)
            fill(building / disk.name)
            files.write_atomically(building / self.shelf.record_name, record.encode(), durable=False)
            # Disk and record are durable before the rename is: what exists after a power cut is whole.
            files.make_durable(building)
            self.shelf.commit(record.name)
        except BaseException:
            # A failure after the commit leaves an object, whose promise stands.
            if not disk.exists():
                # What resists is removed by the next attempt, or by the next start.
                with contextlib.suppress(KatacsiError, OSError):
                    self.shelf.abandon(record.name)
                self._ledger.release(disk)
            raise
        self._ledger.settle(disk, record.size_bytes)

    def grow(self, name: str, size_bytes: int, allocation: Allocation) -> int:
        """Make an object's disk at least this large, and give its size.

        Raises:
            OutOfSpace: as `make`.
        """
        disk = self.shelf.disk(name)
        present = disk.stat().st_size
        if present >= size_bytes:
            return present
        self._ledger.promise(disk, size_bytes, allocation, files.room(self._pool.directory))
        try:
            present = files.grow_file(disk, size_bytes, thick=allocation is Allocation.THICK)
        finally:
            self._ledger.settle(disk, present)
        return present

    def remove(self, name: str) -> None:
        """Remove an object and its bytes; absent is success.

        Raises:
            CorruptRecord: what cannot be read is not proven ours, and stays.
        """
        if self.read(name) is None:
            self.shelf.finish_removal(name)
        else:
            self.shelf.remove(name)
            self._forget(name)
        self._ledger.release(self.shelf.disk(name))

    def _parsed(self, path: Path, data: bytes) -> AnyRecord:
        for pause_s in _REREAD_PAUSES_S:
            try:
                return parse(self._model, data, path)
            except CorruptRecord:
                # Read while another thread, or the process that serves this pool, was overwriting it.
                time.sleep(pause_s)
                data = files.read(path) or data
        return parse(self._model, data, path)

    def _remember(self, name: str, version: tuple[int, ...] | None, record: AnyRecord, writes: int) -> None:
        with self._remembering:
            if version is None or writes != self._writes:
                return
            while len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[name] = (version, record)

    def _forget(self, name: str) -> None:
        """Note that a record was written; within one tick of the clock its times do not tell."""
        with self._remembering:
            self._writes += 1
            self._remembered.pop(name, None)


def _version(path: Path) -> tuple[int, ...] | None:
    """Tell a file and its content from any other that has been there; None where there is none to be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
