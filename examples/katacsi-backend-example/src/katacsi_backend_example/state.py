"""What the pool remembers: one JSON file for its identity, and one for each volume."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Any

from katacsi.errors import CorruptRecord, PoolUnavailable

if TYPE_CHECKING:
    from pathlib import Path

Record = dict[str, Any]


class State:
    """The JSON files in the pool's state directory; each is replaced as a whole, so no crash tears one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.uid = ""

    def open(self, *, read_only: bool) -> None:
        """Read the pool's identity, or give it one."""
        identity = self._directory / "pool.json"
        if not identity.exists():
            if read_only:
                raise PoolUnavailable(f"{identity} does not exist; the first `katacsi serve` makes it")
            self._directory.mkdir(parents=True, exist_ok=True)
            self._replace(identity, {"uid": secrets.token_hex(4)})
        self.uid = self._load(identity)["uid"]

    def identity(self) -> str:
        """Give the pool's identity, opened or not; empty: it cannot be read, or there is none."""
        try:
            return str(self._load(self._directory / "pool.json")["uid"])
        except (OSError, CorruptRecord, KeyError):
            return ""

    def read(self, name: str) -> Record | None:
        """Give a volume's record; None means that there is none."""
        # The identity proves that this is the directory: one whose disk is not mounted looks empty.
        if not (self._directory / "pool.json").exists():
            raise PoolUnavailable(f"{self._directory} has no pool.json any more; was its disk unmounted?")
        path = self._path(name)
        return self._load(path) if path.exists() else None

    def write(self, name: str, record: Record) -> None:
        """Replace a volume's record, durably."""
        self._replace(self._path(name), record)

    def remove(self, name: str) -> None:
        """Forget a volume; absent is success."""
        self._path(name).unlink(missing_ok=True)
        self._sync_directory()

    def all(self) -> dict[str, Record]:
        """Give all records by storage name, in its order."""
        paths = sorted(self._directory.glob("volume-*.json"))
        return {path.stem.removeprefix("volume-"): self._load(path) for path in paths}

    def _path(self, name: str) -> Path:
        return self._directory / f"volume-{name}.json"

    def _load(self, path: Path) -> Record:
        try:
            return dict(json.loads(path.read_bytes()))
        except ValueError as error:
            raise CorruptRecord(f"{path}: not JSON ({error}); restore it from a backup") from error

    def _replace(self, path: Path, record: Record) -> None:
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
