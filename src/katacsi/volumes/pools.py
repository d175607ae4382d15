"""The pools of a release: which one an id, a name or a StorageClass means, and whether it can be used."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from katacsi.backends.api import Features, Scope, features_of
from katacsi.errors import (
    InvalidRequest,
    KatacsiError,
    NotFound,
    OutOfSpace,
    PoolUnavailable,
    Precondition,
)
from katacsi.host import directories
from katacsi.host.offloop import off_loop
from katacsi.model import MalformedId, ObjectId, VolumeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from katacsi.backends.api import Backend, Volume

Id = TypeVar("Id", bound=ObjectId)

log = structlog.get_logger(__name__)


class Pool:
    """A named backend. One whose storage is missing is tried again at each use and hinders no other."""

    def __init__(
        self,
        name: str,
        backend_name: str,
        backend: Backend,
        scope: Scope,
        parameters: Mapping[str, str],
        *,
        node_directory: Path | None = None,
    ) -> None:
        self.name = name
        self.backend_name = backend_name
        self.scope = scope
        self._backend = backend
        self._parameters = parameters
        self._node_directory = node_directory
        self._started = False
        self._starting = asyncio.Lock()
        self._features: Features | None = None

    async def open(self) -> Backend:
        """Give the backend, started.

        Raises:
            PoolUnavailable: its storage is missing or not the one that was set up.
        """
        if not self._started:
            async with self._starting:
                if not self._started:
                    if self._node_directory is not None:
                        await off_loop(directories.ensure_directory, self._node_directory)
                    await self._backend.start()
                    self._started = True
        return self._backend

    def unasked(self) -> Backend:
        """Give the backend as it is, perhaps not started; nothing but `release` may be asked of it."""
        return self._backend

    async def close(self) -> None:
        """Let go of the storage, if it was opened."""
        if self._started:
            await self._backend.close()
            self._started = False
            self._features = None

    @property
    def features(self) -> Features:
        """What the pool can do; final once it is open."""
        if self._features is not None:
            return self._features
        features = features_of(self._backend)
        if self._started:
            # Every call asks, and to look a backend through takes as long as a small call.
            self._features = features
        return features

    def check_parameters(self, backend_name: str, parameters: Mapping[str, str]) -> None:
        """Refuse parameters of another backend, and keys that this one does not know.

        Raises:
            InvalidRequest: with the keys that are legal.
        """
        if backend_name and backend_name != self.backend_name:
            raise InvalidRequest(
                f"parameters[{backend_name}.katacsi.io/…]",
                f"pool {self.name} is a {self.backend_name} pool; leave these keys out or name another pool",
            )
        for key in parameters:
            if key not in self._parameters:
                legal = ", ".join(f"{self.backend_name}.katacsi.io/{name}" for name in self._parameters)
                raise InvalidRequest(
                    f"parameters[{self.backend_name}.katacsi.io/{key}]",
                    f"unknown to the {self.backend_name} backend; it knows {legal or 'no parameters'}",
                )

    def own_parameters(self, raw: Mapping[str, str]) -> dict[str, str]:
        """Give the parameters of a StorageClass that this pool's backend knows, without their prefix."""
        prefix = f"{self.backend_name}.katacsi.io/"
        return {
            name: value
            for key, value in raw.items()
            if (name := key.removeprefix(prefix)) != key and name in self._parameters
        }


class Pools:
    """All pools of the configuration."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = {pool.name: pool for pool in pools}

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    @property
    def scope(self) -> Scope:
        """Whether the release is local or network; start-up has made sure that it is not both."""
        return next((pool.scope for pool in self), Scope.LOCAL)

    @property
    def features(self) -> Features:
        """The union of what the pools can do."""
        every = [pool.features for pool in self]
        return Features(
            snapshots=any(f.snapshots for f in every),
            clones=any(f.clones for f in every),
            expand=any(f.expand for f in every),
            atomic_copies=any(f.atomic_copies for f in every),
            freezes=any(f.freezes for f in every),
        )

    async def start(self) -> None:
        """Open every pool that can be opened; log those that cannot, which are tried again when used."""
        for pool in self:
            try:
                await pool.open()
            except KatacsiError as error:
                log.error("pool cannot be used", pool=pool.name, error=error.message)

    async def close(self) -> None:
        """Let go of every pool."""
        for pool in self:
            await pool.close()

    def choose(self, name: str) -> Pool:
        """Give the pool that a StorageClass means: the one named, else the only one, else `default`.

        Raises:
            OutOfSpace: there is no such pool on this node; another node may have it.
            Precondition: none was named, and it is not clear which is meant.
        """
        known = ", ".join(sorted(self._pools)) or "none"
        if name:
            if name in self._pools:
                return self._pools[name]
            raise OutOfSpace(
                f"parameters[katacsi.io/pool]: there is no pool {name!r} on this node; pools here: {known}. "
                "Correct the StorageClass, or add the pool to the configuration"
            )
        if len(self._pools) == 1:
            return next(iter(self._pools.values()))
        if "default" in self._pools:
            return self._pools["default"]
        raise Precondition(
            f"parameters[katacsi.io/pool]: no pool is named, and none is the default; pools here: {known}. "
            "Name one in the StorageClass, or call one `default` in the configuration"
        )

    async def holding(self, object_id: ObjectId) -> Backend:
        """Give the backend whose storage an id speaks of.

        Raises:
            Precondition: the pool is not configured here, or its storage is another one than when the id was
                given out. The object may well exist elsewhere, so this is not "not found".
            PoolUnavailable: the pool's storage is missing.
        """
        pool = self._pools.get(object_id.pool)
        if pool is None:
            raise Precondition(
                f"{object_id.KIND} {object_id}: pool {object_id.pool!r} is not configured on this node; "
                f"pools here: {', '.join(sorted(self._pools)) or 'none'}"
            )
        backend = await pool.open()
        if backend.pool_uid != object_id.pool_uid:
            raise Precondition(
                f"{object_id.KIND} {object_id}: pool {pool.name!r} on this node has the identity "
                f"{backend.pool_uid}: "
                "the object is on another node, or the pool's storage was replaced"
            )
        return backend

    def unasked(self, volume_id: VolumeId) -> Backend | None:
        """Give the backend of an id's pool without opening it, for teardown; None: there is no such pool."""
        pool = self._pools.get(volume_id.pool)
        return None if pool is None else pool.unasked()

    async def find(self, volume_id: str) -> tuple[Backend, Volume]:
        """Give a volume and the backend that holds it.

        Raises:
            NotFound: malformed, proven absent, or in a pool that is not on this node.
        """
        parsed = parse_id(VolumeId, volume_id)
        backend = await self.backend_of(parsed)
        return backend, await self.look_up(backend, parsed)

    async def backend_of(self, volume_id: VolumeId) -> Backend:
        """Give the backend that holds a volume, if there is one.

        Raises:
            NotFound: its pool is not on this node.
        """
        try:
            return await self.holding(volume_id)
        except Precondition as elsewhere:
            raise NotFound(elsewhere.message) from elsewhere

    @staticmethod
    async def look_up(backend: Backend, volume_id: VolumeId) -> Volume:
        """Give a volume of a backend.

        Raises:
            NotFound: it is proven absent.
        """
        volume = await backend.get(volume_id)
        if volume is None:
            raise NotFound(f"volume {volume_id}: does not exist")
        return volume

    async def elsewhere(self, csi_name: str, here: Pool) -> Volume | None:
        """Find a volume by the name it was created under, in all other pools that can be opened."""
        for pool in self:
            if pool is here:
                continue
            try:
                found = await (await pool.open()).find(csi_name)
            except PoolUnavailable:
                continue
            if found is not None:
                return found
        return None


def parse_id(kind: type[Id], text: str) -> Id:
    """Read an id where a malformed one means that there is no such object.

    Raises:
        NotFound: it is not an id that katacsi gives out.
    """
    try:
        return kind.parse(text)
    except MalformedId as error:
        raise NotFound(f"{kind.KIND} {text!r}: not an id that this driver gave out") from error
