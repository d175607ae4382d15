"""The volume that is measured: a real one, made, staged and published by the real driver."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import servers
from scratch import Failure

from katacsi.csi.client import Client, RpcError, csi
from katacsi.directvolume.names import RECORD_FILE, entry_name

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITY = csi.VolumeCapability(
    mount=csi.VolumeCapabilityMountVolume(fs_type="ext4"),
    access_mode=csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER),
)


class Volume:
    """A direct volume of ext4, published: `device` is what its record names.

    Its calls are those of the sidecars and of kubelet.
    """

    def __init__(self, server: servers.Server) -> None:
        self._server = server
        self._staging = server.kubelet / "globalmount"
        self._target = server.kubelet / "pod" / "mount"
        self._id = ""
        self.size = 0
        self.device = Path()

    async def up(self, size: int) -> None:
        """Create, stage and publish it, and read its record as Kata does."""
        for folder in (self._staging, self._target.parent):
            folder.mkdir()
        async with self._client() as client:
            made = await client.controller.create_volume(
                csi.CreateVolumeRequest(
                    name="pvc-datapath",
                    capacity_range=csi.CapacityRange(required_bytes=size),
                    volume_capabilities=[CAPABILITY],
                    parameters=self._server.parameters,
                )
            )
            assert made.volume is not None
            self._id, self.size = made.volume.volume_id, made.volume.capacity_bytes
            common = {
                "volume_id": self._id,
                "staging_target_path": str(self._staging),
                "volume_capability": CAPABILITY,
                "volume_context": made.volume.volume_context,
            }
            await client.node.node_stage_volume(csi.NodeStageVolumeRequest(**common))
            await client.node.node_publish_volume(
                csi.NodePublishVolumeRequest(**common, target_path=str(self._target))
            )
        records = self._server.kubelet.parent / "run" / "direct-volumes"
        record = json.loads((records / entry_name(str(self._target)) / RECORD_FILE).read_text())
        self.device = Path(record["device"])

    async def grow(self, size: int) -> None:
        """Let the driver grow the device; the guest is told by whoever holds QEMU's monitor.

        There is no runtime here that the driver could ask, so it answers that the growth is not finished.
        """
        async with self._client() as client:
            try:
                await client.node.node_expand_volume(
                    csi.NodeExpandVolumeRequest(
                        volume_id=self._id,
                        volume_path=str(self._target),
                        staging_target_path=str(self._staging),
                        capacity_range=csi.CapacityRange(required_bytes=size),
                        volume_capability=CAPABILITY,
                    )
                )
            except RpcError as error:
                if error.code != "FAILED_PRECONDITION":
                    raise
        self.size = _size_of(self.device)
        if self.size < size:
            raise Failure(f"{self.device} has {self.size} bytes and was to grow to {size}")

    async def down(self) -> None:
        """Unpublish, unstage and delete it."""
        async with self._client() as client:
            await client.node.node_unpublish_volume(
                csi.NodeUnpublishVolumeRequest(volume_id=self._id, target_path=str(self._target))
            )
            await client.node.node_unstage_volume(
                csi.NodeUnstageVolumeRequest(volume_id=self._id, staging_target_path=str(self._staging))
            )
            await client.controller.delete_volume(csi.DeleteVolumeRequest(volume_id=self._id))

    def _client(self) -> Client:
        return Client(self._server.socket)


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
