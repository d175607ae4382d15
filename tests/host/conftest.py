"""What the tests of the workflows share: a node, served in this process."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest

from support import network, pools
from support import node as nodes
from support.shims import Places


@pytest.fixture
def kata(monkeypatch):
    """Places for shims and containers, at which the node that is served looks; ask for it before `node`."""
    with tempfile.TemporaryDirectory(prefix="kcs", dir="/tmp") as folder:
        places = Places(Path(folder))
        monkeypatch.setattr("katacsi.app.Sandboxes", places.sandboxes)
        yield places


@pytest.fixture
async def node(scratch):
    """A node with one pool that copies every byte (its disk has no reflinks, or they are not used)."""
    pool = {"backend": "loopfile", "directory": str(scratch / "pool"), "copies": "full"}
    async with nodes.serving(scratch, pools={"default": pool}) as served:
        yield served


@pytest.fixture
async def reflink_node(scratch):
    """A node whose pool makes copies of one moment."""
    with pools.mounted_filesystem(scratch, "xfs", 1024) as point:
        pool = {"backend": "loopfile", "directory": str(point), "copies": "reflink"}
        async with nodes.serving(scratch, pools={"default": pool}) as served:
            served.pool = point
            yield served


@pytest.fixture
def volume(node):
    """Make volumes of the node: `volume("pvc-2", direct=True)`."""
    return partial(nodes.Volume, node)


@pytest.fixture
async def release(scratch, monkeypatch):
    """A release in the network: its controller and two nodes."""
    (scratch / "network").mkdir()
    async with network.serving(scratch / "network", monkeypatch) as places:
        yield places
