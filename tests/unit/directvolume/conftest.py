"""A root of records of its own for each test, and shims that listen."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest

from katacsi.directvolume.writer import DirectVolumeWriter
from support.shims import Places

POD = "/var/lib/kubelet/pods/1202b4c1-e87f-4f0d-8624-52500f3ab94b/volumes/kubernetes.io~csi"


@pytest.fixture
def target():
    """A target path as the kubelet makes them."""
    return f"{POD}/pvc-2ad7b367-9fed-480d-a747-1ca5ce3809d4/mount"


@pytest.fixture
def root(tmp_path):
    """Where the records are to be; it is not there yet."""
    return tmp_path / "kata" / "direct-volumes"


class Shims(Places):
    """Shims of both runtimes that accept connections, and dead ones."""

    def __init__(self, folder, stack):
        super().__init__(folder)
        self._stack = stack

    async def start(self, sandbox_id, *, folder=None):
        """Have a shim listen for a sandbox."""
        path = self._socket(sandbox_id, folder)
        server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), path)
        self._stack.push_async_callback(server.wait_closed)
        self._stack.callback(server.close)

    async def crash(self, sandbox_id, *, folder=None):
        """Leave the socket of a shim that is gone."""
        server = await asyncio.start_unix_server(lambda *_: None, self._socket(sandbox_id, folder))
        server.close()
        await server.wait_closed()

    def _socket(self, sandbox_id, folder):
        path = (folder or self.go) / sandbox_id / "shim-monitor.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
async def shims():
    """No shims yet; a short path, because a socket's may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kcs", dir="/tmp") as folder:
        async with contextlib.AsyncExitStack() as stack:
            yield Shims(Path(folder), stack)


@pytest.fixture
def sandboxes(root, shims):
    """Discovery that looks at these shims only."""
    return shims.sandboxes(root)


@pytest.fixture
def writer(root, sandboxes):
    """A writer without a shim client."""
    return DirectVolumeWriter(root, sandboxes=sandboxes)
