"""Records of a pool in a folder: a JSON file for the pool's identity, and one for each object; it blocks.

A file is replaced as a whole: a reader, and whoever comes after a crash or a power cut, meets the old record
or the new one. "Absent" is said only while the identity proves that this is the folder: one whose disk is not
mounted looks empty.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from katacsi.backends.tools.poollock import PoolLock
from katacsi.errors import CorruptRecord, PoolNotSetUp, PoolUnavailable
from katacsi.host import directories, files
from katacsi.model import is_storage_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_IDENTITY: Final = "pool.json"
_LOCK: Final = "lock"
_OBJECTS: Final = "objects"


class RecordFolder:
    """The records of one pool, which one driver at a time may change.

    Args:
        directory: the folder; it is made by the first `open`.
        pool: the pool's name, for messages.
    """

    def __init__(self, directory: Path, pool: str) -> None:
        self._directory = directory
        self._objects = directory / _OBJECTS
        self._pool = f"pool {pool!r}: {directory}"
        self._lock = PoolLock()
        #: Eight hex digits that tell this pool from others; known once it is open.
        self.uid = ""

    def open(self, *, read_only: bool, exclusive: bool = True) -> None:
        """Lock the folder and read the pool's identity; give it one if it has neither that nor records.

        Without `exclusive` the lock is let go of again: for what several processes of one node note, such as
        two of a roll-over, and for storage that has a lock of its own.

        Raises:
            PoolUnavailable: another driver serves it, or it lost its identity.
        """
        if not read_only:
            directories.ensure_directory(self._directory)
            self._lock.take(self._directory / _LOCK, self._pool)
        try:
            uid = self.identity()
            if not uid:
                uid = self._found(read_only=read_only)
            self.uid = uid
        except BaseException:
            self._lock.release()
            raise
        if not exclusive:
            self._lock.release()

    def close(self) -> None:
        """Let go of the folder; closed already is success."""
        self._lock.release()

    def identity(self) -> str:
        """Give the pool's identity, opened or not; empty: it has none.

        Raises:
            CorruptRecord: what is there cannot be used.
        """
        record = self._load(self._directory / _IDENTITY)
        if record is None:
            return ""
        uid = record.get("uid")
        if not isinstance(uid, str) or len(uid) != 8 or set(uid) - set("0123456789abcdef"):
            raise CorruptRecord(f"{self._directory / _IDENTITY}: {uid!r} is no identity; restore it")
        return uid

    def read(self, name: str) -> dict[str, Any] | None:
        """Give an object's record; None: it is proven absent.

        Raises:
            CorruptRecord: there is one, and it cannot be used.
            PoolUnavailable: the folder is not the one that was opened.
        """
        record = self._load(self._path(name))
        if record is None:
            self.verify()
        return record

    def names(self) -> list[str]:
        """Give the names of all objects.

        Raises:
            PoolUnavailable: as `read`.
        """
        self.verify()
        stems = (entry.removesuffix(".json") for entry in directories.list_directory(self._objects))
        return [name for name in stems if is_storage_name(name)]

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Replace an object's record, durably, or make it.

        Raises:
            OutOfSpace: there is no room; the former record stands.
        """
        files.write_atomically(self._path(name), json.dumps(record).encode() + b"\n")

    def remove(self, name: str) -> None:
        """Forget an object, durably; absent is success."""
        files.ensure_absent(self._path(name))
        directories.sync_directory(self._objects)

    def verify(self) -> None:
        """Prove that this is still the folder that was opened.

        Raises:
            PoolUnavailable: it is another one, or none.
        """
        found = self.identity()
        if not found or found != self.uid:
            raise PoolUnavailable(
                f"{self._pool} holds {f'pool {found}' if found else 'no pool'} and held {self.uid}; was its "
                "disk unmounted?"
            )

    def _found(self, *, read_only: bool) -> str:
        if read_only:
            raise PoolNotSetUp(f"{self._pool} holds no pool; the first `katacsi serve` makes one")
        if self._objects.exists() and directories.list_directory(self._objects):
            raise PoolUnavailable(
                f"{self._pool} has records and no {_IDENTITY}; restore that with the uid that the handles of "
                "its volumes carry, for a new identity would disown them"
            )
        directories.ensure_directory(self._objects)
        uid = secrets.token_hex(4)
        # The last step, and durable: a pool without it was never used.
        files.write_atomically(self._directory / _IDENTITY, json.dumps({"uid": uid}).encode() + b"\n")
        return uid

    def _path(self, name: str) -> Path:
        return self._objects / f"{name}.json"

    def _load(self, path: Path) -> dict[str, Any] | None:
        data = files.read(path)
        if data is None:
            return None
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError) as error:
            raise CorruptRecord(
                f"{path}: is no record ({error}); restore it from a backup. Nothing was deleted"
            ) from error
