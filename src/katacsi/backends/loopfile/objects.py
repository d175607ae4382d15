"""What volumes and snapshots share: they are made, grown and removed so that no crash leaves half of one."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Generic

from katacsi.backends.loopfile.records import AnyRecord, parse
from katacsi.backends.loopfile.settings import Allocation
from katacsi.errors import CorruptRecord, KatacsiError, OutOfSpace
from katacsi.host import directories, files, sizedfiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from katacsi.backends.loopfile.accounting import Accounting
    from katacsi.backends.loopfile.layout import ObjectFolder
    from katacsi.backends.loopfile.pool import LoopfilePool


#: A record that cannot be used is read again after so many seconds: it may be about to be written.
_REREAD_PAUSE_S = 0.001


class LoopfileObjects(Generic[AnyRecord]):
    """The objects of one kind in a pool."""

    def __init__(
        self, pool: LoopfilePool, folder: ObjectFolder, model: type[AnyRecord], accounting: Accounting
    ) -> None:
        self.folder = folder
        self._pool = pool
        self._model = model
        self._accounting = accounting
        #: The objects that outlast a power cut as they are read, by this process's own doing.
        self._durable: set[str] = set()
        self._making_durable = threading.Lock()

    def read(self, name: str) -> AnyRecord | None:
        """Read the record of an object; None means proven absent.

        Raises:
            CorruptRecord: there is an object, but what is written about it cannot be used.
        """
        path = self.folder.record(name)
        data = files.read(path)
        if data is not None:
            return self._parsed(path, data)
        if path.parent.exists() and not self.folder.is_gone(name):
            raise CorruptRecord(
                f"{path.parent}: has no {path.name}; restore it from a backup, or move the folder away"
            )
        self._pool.verify()
        return None

    def ensure_durable(self, name: str) -> None:
        """See that an object, as it is read, outlasts a power cut: asked before anybody relies on it.

        A process that was killed, or a sync that failed, leaves what can be read and is not on the disk.
        Taken for stored, "formatted" could turn into "formatting" under a volume in use.
        """
        if name in self._durable:
            return
        # Whoever changes an object comes through here first, so nobody does while it is written again.
        with self._making_durable:
            if name not in self._durable:
                # A filesystem that copies needs room to write; without it the sync has to do.
                with contextlib.suppress(OutOfSpace):
                    files.write_again(self.folder.record(name))
                sizedfiles.make_durable(self.folder.home(name))
                directories.sync_directory(self.folder.directory)
                self._durable.add(name)

    def write(self, record: AnyRecord) -> None:
        """Replace an object's record; durable at once, for mkfs and guests rely on what it says."""
        with self._changing(record.name):
            files.write_atomically(self.folder.record(record.name), record.encode())

    def overwrite(self, name: str, change: Callable[[int], tuple[int, bytes]]) -> None:
        """Change a part of an object's record; durable at once.

        `change` is given the length of the record and gives the offset and the bytes; a power cut may leave
        any sectors of them.
        """
        path = self.folder.record(name)
        with self._changing(name):
            files.overwrite(path, *change(path.stat().st_size))

    def make(self, record: AnyRecord, allocation: Allocation, fill: Callable[[Path], None]) -> None:
        """Make an object, or nothing; `fill` is given the path at which it makes the disk.

        Raises:
            OutOfSpace: the pool cannot promise its size, or is full.
        """
        disk = self.folder.disk(record.name)
        self._accounting.promise(disk, record.size_bytes, allocation, directories.room(self._pool.directory))
        try:
            building = self.folder.begin(record.name)
            fill(building / disk.name)
            files.write_atomically(building / self.folder.record_name, record.encode(), durable=False)
            # Disk and record are durable before the rename is: what exists after a power cut is whole.
            sizedfiles.make_durable(building)
            self.folder.commit(record.name)
        except BaseException:
            # A failure after the commit leaves an object, whose promise stands.
            if not disk.exists():
                # What resists is removed by the next attempt, or by the next start.
                with contextlib.suppress(KatacsiError, OSError):
                    self.folder.abandon(record.name)
                self._accounting.release(disk)
            raise
        self._durable.add(record.name)
        self._accounting.settle(disk, record.size_bytes)

    def grow(self, name: str, size_bytes: int, allocation: Allocation) -> int:
        """Make an object's disk at least this large, and give its size.

        Raises:
            OutOfSpace: as `make`.
        """
        disk = self.folder.disk(name)
        present = disk.stat().st_size
        if present >= size_bytes:
            return present
        self._accounting.promise(disk, size_bytes, allocation, directories.room(self._pool.directory))
        try:
            with self._changing(name):
                present = sizedfiles.grow_file(disk, size_bytes, thick=allocation is Allocation.THICK)
        finally:
            self._accounting.settle(disk, present)
        return present

    def remove(self, name: str) -> None:
        """Remove an object and its bytes; absent is success.

        Raises:
            CorruptRecord: what cannot be read is not proven ours, and stays.
        """
        if self.read(name) is None:
            self.folder.finish_removal(name)
            # A removal that was killed looks like this, too.
            directories.sync_directory(self.folder.directory)
        else:
            self._durable.discard(name)
            self.folder.remove(name)
        self._accounting.release(self.folder.disk(name))

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Change an object that is durable; after a failure it counts as one that may not be."""
        self.ensure_durable(name)
        try:
            yield
        except BaseException:
            self._durable.discard(name)
            raise

    def _parsed(self, path: Path, data: bytes) -> AnyRecord:
        try:
            return parse(self._model, data, path)
        except CorruptRecord:
            # Perhaps read while another thread, or the process that serves this pool, was overwriting it.
            time.sleep(_REREAD_PAUSE_S)
            return parse(self._model, files.read(path) or data, path)
