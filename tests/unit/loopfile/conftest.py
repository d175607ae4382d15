"""A pool in a folder, without devices."""

import pytest

from katacsi.backends.api import CreateRequest, PoolContext, SizeRange
from katacsi.backends.loopfile import LoopfileBackend, LoopfileSettings
from katacsi.backends.tools import poollock
from katacsi.model import MIB


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(folder, monkeypatch):
    """Start pools: await opened(settings...); all are closed at the end."""
    monkeypatch.setattr(poollock, "TIMEOUT_S", 0.05)
    started = []

    async def start(*, read_only=False, **settings):
        context = PoolContext("pool", "test.katacsi.io", "node-1", read_only=read_only)
        backend = LoopfileBackend(LoopfileSettings(directory=folder, **settings), context)
        await backend.start()
        started.append(backend)
        return backend

    yield start
    for backend in started:
        backend._pool.close()


@pytest.fixture
def request_for():
    """Ask for a volume of 1 MiB, or another size."""

    def make(name, required=MIB, limit=0, **more):
        return CreateRequest(name, SizeRange(required, limit), **more)

    return make
