"""The pool itself: its folder, the identity written there, and the lock that keeps a second katacsi out."""

from __future__ import annotations

import errno
import json
import re
import secrets
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from katacsi.backends.loopfile import labels, layout
from katacsi.backends.tools import refusals
from katacsi.backends.tools.poollock import PoolLock
from katacsi.errors import HostError, OutOfSpace, PoolNotSetUp, PoolUnavailable
from katacsi.host import directories, files, looprelease
from katacsi.model import MIB, VolumeId, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from katacsi.backends.api import PoolContext
    from katacsi.backends.loopfile.settings import LoopfileSettings
    from katacsi.model import ObjectId

SCHEMA = 1

_WRITE_PROBE = ".probe-writing"

#: With less than this part of its filesystem left, and less than so many bytes, a pool counts as full.
_HARDLY_ANY = 100
_ENOUGH = 64 * MIB

#: What a filesystem answers that shut down, or whose disk is gone or does not work.
_BROKEN = frozenset({errno.EIO, errno.EUCLEAN, errno.ENODEV, errno.ENXIO, errno.ESHUTDOWN})

P = ParamSpec("P")
T = TypeVar("T")


class LoopfilePool:
    """The folder of a pool, from `open` to `close`."""

    def __init__(self, settings: LoopfileSettings, context: PoolContext) -> None:
        self.name = context.pool
        self.directory = settings.directory
        self.volumes = layout.ObjectFolder("volume", self.directory / "volumes", "volume.json")
        self.snapshots = layout.ObjectFolder("snapshot", self.directory / "snapshots", "snapshot.json")
        self.uid = ""
        self.place = labels.place(context.node_id, settings.directory)
        self._require_mount = settings.require_mount
        self._read_only = context.read_only
        self._lock = PoolLock()

    def open(self) -> None:
        """Prove that this is the pool, or make it one; take its lock unless it is only viewed.

        Raises:
            PoolUnavailable: see the message.
        """
        if not self.directory.is_dir():
            raise self._unavailable("is not an existing folder; create it, or mount its disk")
        if self._require_mount and not directories.is_mount_point(self.directory):
            raise self._unavailable("is not a mount point, and require_mount is set; mount its disk there")
        if not self._read_only:
            if directories.room(self.directory).read_only:
                raise self._unavailable("is mounted read-only; check the disk, then mount it read-write")
            if self._read_uid() is None:
                self._require_never_used()
            self._take_lock()
        try:
            self.uid = self._read_uid() or self._make_identity()
            self.verify()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    def verify(self) -> None:
        """Prove that what `open` found is still there: a disk that was unmounted leaves an empty folder.

        Whoever says "absent" asks this first.

        Raises:
            PoolUnavailable: the pool is gone, or another one is in its place.
        """
        found = self._read_uid()
        if found is None:
            raise self._unavailable(f"has no {layout.IDENTITY} any more; was its disk unmounted?")
        if found != self.uid:
            raise self._unavailable(f"holds pool {found} now and held {self.uid}; restart katacsi to use it")
        for folder in (self.volumes, self.snapshots):
            if not folder.directory.is_dir():
                raise self._unavailable(f"has lost its folder {folder.directory.name}; restore it")

    def own(self, object_id: ObjectId) -> str:
        """Give the storage name in an id.

        Raises:
            PoolUnavailable: the id is of another pool, about which nothing can be said here.
        """
        storage, remedy = str(self.directory), "mount the former storage"
        refusals.check_own(object_id, self.name, self.uid, storage=storage, remedy=remedy)
        return object_id.name

    def volume_id(self, name: str) -> VolumeId:
        """Give the id of a volume."""
        return VolumeId(self.name, self.uid, name)

    def changing(self) -> None:
        """Refuse a change to a pool that is only viewed."""
        refusals.check_writable(self.name, read_only=self._read_only)

    def refuses_writes(self, *, durable: bool = True) -> str:
        """Say why nothing can be written to the pool now; empty: something can.

        Tried, because after an error ext4 refuses writes without calling itself read-only (Linux 6.14).
        Durably, because what a filesystem only keeps in memory tells nothing of its disk. It waits as long as
        a frozen filesystem, or a disk that hangs, lets it.
        """
        if self._read_only:
            return ""
        probe = self.directory / _WRITE_PROBE
        try:
            files.write_atomically(probe, b"", durable=durable)
            files.ensure_absent(probe)
        except (HostError, OutOfSpace) as error:
            return error.message
        return ""

    def full(self) -> str:
        """Say that the pool's filesystem is full, and the remedy; empty: it is not.

        What is left may be too little for what was being written, and no block at all is seldom left.
        """
        room = directories.room(self.directory)
        if room.available_bytes >= min(room.total_bytes // _HARDLY_ANY, _ENOUGH):
            return ""
        return (
            f"pool {self.name!r}: the filesystem of {self.directory} is full "
            f"({format_size(room.available_bytes)} of {format_size(room.total_bytes)} left); delete volumes "
            "or snapshots, or enlarge it"
        )

    def explained(self, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step; a filesystem that is full, read-only or broken becomes an error that says so."""
        try:
            return step(*args, **kwargs)
        except (HostError, OutOfSpace, OSError) as error:
            number = _errno(error)
            if number in {errno.ENOSPC, errno.EDQUOT}:
                raise OutOfSpace(
                    f"pool {self.name!r}: the filesystem of {self.directory} is full ({error}); delete "
                    "volumes or snapshots, or enlarge it"
                ) from error
            if number == errno.EROFS:
                raise self._unavailable("is read-only now; check its disk and mount it anew") from error
            if number in _BROKEN:
                self._explain_broken(error)
            if isinstance(error, OSError):
                raise HostError(f"pool {self.name!r}: {error}") from error
            raise

    def _explain_broken(self, error: Exception) -> None:
        """Tell a pool that does not work from a place in it that cannot be read.

        Raises:
            OutOfSpace: what the pool's own disk takes its bytes from is full.
            PoolUnavailable: nothing can be written to the pool.
        """
        try:
            full = self.full()
        except HostError:
            full = ""
        if full:
            raise OutOfSpace(full) from error
        if refusal := self.refuses_writes(durable=False):
            raise self._unavailable(
                f"takes no writes ({refusal}); look at the kernel's log and check its disk"
            ) from error

    def _read_uid(self) -> str | None:
        path = self.directory / layout.IDENTITY
        data = files.read(path)
        if data is None:
            return None
        try:
            identity = json.loads(data)
            schema, uid = identity["schema"], identity["uid"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._unavailable(
                f"has a damaged {layout.IDENTITY} ({error!r}); write it anew as "
                f'{{"schema": 1, "uid": "…"}} with the uid that the handles of its volumes carry'
            ) from error
        if schema != SCHEMA:
            raise self._unavailable(f"was written by a newer katacsi (schema {schema}); use that version")
        if not isinstance(uid, str) or not re.fullmatch(r"[0-9a-f]{8}", uid):
            raise self._unavailable(f"has a damaged {layout.IDENTITY}: uid {uid!r} is not 8 hex digits")
        return uid

    def _require_never_used(self) -> None:
        """Tell a folder in which a pool may be founded from one whose disk was unmounted."""
        for found in looprelease.every():
            if labels.is_at(found, self.place, self.directory):
                raise self._unavailable(
                    f"has no {layout.IDENTITY}, but {found.path} is the device of a volume that lay there "
                    f"({found.shown}), so its disk was unmounted; mount it again"
                )

    def _make_identity(self) -> str:
        for folder in (self.volumes, self.snapshots):
            if folder.directory.exists() and folder.names():
                raise self._unavailable(
                    f"has no {layout.IDENTITY}, yet {folder.kind}s; restore that file with the uid that "
                    "their handles carry, for a new identity would disown them"
                )
            if self._read_only:
                raise PoolNotSetUp(
                    f"pool {self.name!r}: {self.directory} holds no pool; the first `katacsi serve` makes one"
                )
            directories.ensure_directory(folder.directory)
        uid = secrets.token_hex(4)
        content = {"schema": SCHEMA, "uid": uid, "created_at": time.time()}
        # The last step, and durable: a pool without it is a pool that was never used.
        files.write_atomically(self.directory / layout.IDENTITY, json.dumps(content).encode() + b"\n")
        return uid

    def _take_lock(self) -> None:
        remedy = "stop that one, or give this pool another folder"
        self._lock.take(self.directory / layout.LOCK, f"pool {self.name!r}: {self.directory}", remedy)

    def _unavailable(self, fact: str) -> PoolUnavailable:
        return PoolUnavailable(f"pool {self.name!r}: {self.directory} {fact}")


def _errno(error: BaseException | None) -> int | None:
    """Find the errno beneath an error."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno
        error = error.__cause__
    return None
