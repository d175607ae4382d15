"""What an author of a backend adapts of the conformance tests, and the pool that each test is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import pytest_asyncio

from katacsi.backends.api import (
    PoolContext,
)
from katacsi.model import MIB
from katacsi.testing.hooks import Hooks
from katacsi.testing.pools import PoolUnderTest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from katacsi.backends.api import Backend


class ConformanceKit(Hooks):
    """What an author adapts. The fixture `make_backend` is the only thing that has to be given."""

    #: The entry point's name; empty: the installation is not checked.
    entry_point: ClassVar[str] = ""
    #: The size of most volumes in these tests, in bytes; a pool has to have room for `volumes_at_once`.
    volume_size: ClassVar[int] = 16 * MIB
    volumes_at_once: ClassVar[int] = 5
    #: Parameters for all volumes; others that are legal as well, and some that are not. None: not tested.
    parameters: ClassVar[Mapping[str, str]] = {}
    other_parameters: ClassVar[Mapping[str, str] | None] = None
    illegal_parameters: ClassVar[Mapping[str, str] | None] = None
    #: How much of a deleted volume may stay in use (metadata of the storage), in bytes.
    lost_capacity: ClassVar[int] = 1 * MIB
    #: How long the storage may take to count freed bytes, in seconds; XFS frees them a moment later.
    patience_s: ClassVar[float] = 5.0
    #: Kill a call at each of its steps (1), or at each n-th only, where a step takes seconds.
    kill_every: ClassVar[int] = 1
    #: What `attach` and `publish` are given.
    secrets: ClassVar[Mapping[str, str]] = {}
    node_id: ClassVar[str] = "node-1"
    #: For storage in the network: another node, and one that the storage does not know; empty: it knows all.
    other_node_id: ClassVar[str] = "node-2"
    unknown_node_id: ClassVar[str] = "no-such-node"

    @pytest.fixture
    def make_backend(self) -> Callable[[PoolContext], Backend]:
        """Give a function that makes the backend, not yet started, on this test's storage."""
        pytest.fail("override the fixture make_backend; katacsi.testing shows how")

    @pytest.fixture(autouse=True)
    def _node_folders(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._folders = tmp_path_factory

    def node_folder(self, node_id: str) -> Path:
        """Give the folder in which a pool remembers something of a node, the same one in all of a test."""
        made: dict[str, Path] = self.__dict__.setdefault("_made", {})
        if node_id not in made:
            made[node_id] = self._folders.mktemp(node_id)
        return made[node_id]

    @pytest_asyncio.fixture
    async def pool(self, make_backend: Callable[[PoolContext], Backend]) -> AsyncIterator[PoolUnderTest]:
        """Give a started pool; at the end its volumes are deleted and it is closed."""
        pool = PoolUnderTest(make_backend, self)
        await pool.start()
        try:
            yield pool
            await pool.clear()
        finally:
            await pool.backend.close()
