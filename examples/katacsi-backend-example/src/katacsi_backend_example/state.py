"""What the pool remembers: one JSON file for its identity, and one for each volume."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from katacsi.errors import CorruptRecord, PoolUnavailable
from katacsi.host import directories, files, locks

if TYPE_CHECKING:
    from pathlib import Path

Record = dict[str, Any]


class State:
    """The JSON files in the pool's state directory; each is replaced as a whole, so no crash tears one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.uid = ""
        self._lock: int | None = None

    def open(self, *, read_only: bool) -> None:
        """Read the pool's identity, or give it one."""
        identity = self._directory / "pool.json"
        if not identity.exists():
            if read_only:
                raise PoolUnavailable(f"{identity} does not exist; the first `katacsi serve` makes it")
            self._directory.mkdir(parents=True, exist_ok=True)
            self._replace(identity, {"uid": secrets.token_hex(4)})
        if not read_only:
            self._take_lock()
        self.uid = self._load(identity)["uid"]

    def close(self) -> None:
        """Let go of the state; closed already is success."""
        held, self._lock = self._lock, None
        if held is not None:
            locks.unlock(held)

    def _take_lock(self) -> None:
        """Keep a second driver out: both would give out the same disks."""
        try:
            self._lock = locks.lock_file(self._directory / "lock", timeout_s=1)
        except locks.Held as error:
            raise PoolUnavailable(f"{self._directory} is served by another driver; stop that one") from error

    def identity(self) -> str:
        """Give the pool's identity, opened or not; empty: it cannot be read, or there is none."""
        try:
            return str(self._load(self._directory / "pool.json")["uid"])
        except (OSError, CorruptRecord, KeyError):
            return ""

    def read(self, name: str) -> Record | None:
        """Give a volume's record; None means that there is none."""
        self._verify()
        path = self._path(name)
        return self._load(path) if path.exists() else None

    def write(self, name: str, record: Record) -> None:
        """Replace a volume's record, durably."""
        self._replace(self._path(name), record)

    def remove(self, name: str) -> None:
        """Forget a volume; absent is success."""
        files.ensure_absent(self._path(name))
        directories.sync_directory(self._directory)

    def all(self) -> dict[str, Record]:
        """Give all records by storage name, in its order."""
        self._verify()
        paths = sorted(self._directory.glob("volume-*.json"))
        return {path.stem.removeprefix("volume-"): self._load(path) for path in paths}

    def _verify(self) -> None:
        """Prove by the identity that this is the directory: one whose disk is not mounted looks empty."""
        found = self.identity()
        if not found or (self.uid and found != self.uid):
            raise PoolUnavailable(f"{self._directory} does not hold pool {self.uid}; was its disk unmounted?")

    def _path(self, name: str) -> Path:
        return self._directory / f"volume-{name}.json"

    def _load(self, path: Path) -> Record:
        try:
            return dict(json.loads(path.read_bytes()))
        except ValueError as error:
            raise CorruptRecord(f"{path}: not JSON ({error}); restore it from a backup") from error

    def _replace(self, path: Path, record: Record) -> None:
        files.write_atomically(path, json.dumps(record).encode())
