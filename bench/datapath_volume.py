"""The volume that is measured: a real one, made, staged and published by the real driver."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import servers
from scratch import Failure

from katacsi.csi.client import Client, RpcError
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.testing import kubelet
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Volume:
    """A direct volume of ext4, published: `device` is what its record names."""

    def __init__(self, server: servers.Server) -> None:
        self._server = server
        self._kubelet = kubelet.Volume(
            "pvc-datapath", staging=server.kubelet / "globalmount", target=server.kubelet / "pod" / "mount"
        )
        self.size = 0
        self.device = Path()

    async def up(self, size: int) -> None:
        """Create, stage and publish it, and read its record as Kata does."""
        self._kubelet.size = size
        async with self._calls() as volume:
            made = await volume.create()
            assert made.volume is not None
            self.size = made.volume.capacity_bytes
            await volume.stage()
            await volume.publish()
        process = self._server.process
        assert isinstance(process, ServeProcess)
        entry = process.records / entry_name(str(self._kubelet.target))
        self.device = Path(json.loads((entry / RECORD_FILE).read_text())["device"])

    async def grow(self, size: int) -> None:
        """Let the driver grow the device; the guest is told by whoever holds QEMU's monitor.

        There is no runtime here that the driver could ask, so it answers that the growth is not finished.
        """
        async with self._calls() as volume:
            try:
                await volume.expand(size)
            except RpcError as error:
                if error.code != "FAILED_PRECONDITION":
                    raise
        self.size = _size_of(self.device)
        if self.size < size:
            raise Failure(f"{self.device} has {self.size} bytes and was to grow to {size}")

    async def down(self) -> None:
        """Unpublish, unstage and delete it."""
        async with self._calls() as volume:
            await volume.unpublish()
            await volume.unstage()
            await volume.delete()

    @asynccontextmanager
    async def _calls(self) -> AsyncIterator[kubelet.Volume]:
        """Connect for some calls: each step has an event loop of its own."""
        async with Client(self._server.process.socket) as client:
            self._kubelet.client = client
            yield self._kubelet


@contextmanager
def published(home: Path, size: int) -> Iterator[Volume]:
    """Give a volume in a pool below a folder; afterwards it is deleted and the driver has ended."""
    server = servers.katacsi(home)
    server.start()
    try:
        volume = Volume(server)
        asyncio.run(volume.up(size))
        yield volume
        asyncio.run(volume.down())
    except RpcError as error:
        raise Failure(f"katacsi: {error}") from error
    finally:
        server.stop()


def _size_of(device: Path) -> int:
    return int(Path("/sys/class/block", device.name, "size").read_text()) * 512
