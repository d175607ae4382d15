"""The calls for one volume, as the CSI sidecars and the kubelet make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.csi.client import Client, csi
from katacsi.model import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["DIRECT", "Volume", "csi"]

#: The parameters of a StorageClass whose volumes go to Kata's guests.
DIRECT = {"katacsi.io/direct": "true"}

AccessMode = csi.VolumeCapabilityAccessModeMode


class Volume:
    """A volume, from its name on. What the calls answer is kept, so that the next call has it.

    Args:
        name: the name that the provisioner gives it.
        staging, target: the kubelet's paths. It makes the first one and the second one's parent.
        client: the driver's; it connects again by itself when the driver was started anew.
        size: the bytes that are asked for.
        fs_type: the filesystem; empty: the driver's default.
        block: a raw block device is asked for instead.
        parameters: those of the StorageClass.
        mount_flags: its mountOptions.
        mount_group: the pod's fsGroup.
        read_only: whether the pod wants it so.
        access_mode: by default what Kubernetes makes of ReadWriteOnce.

    Attributes:
        volume_id, context: what CreateVolume answered.
    """

    def __init__(
        self,
        name: str,
        *,
        staging: Path,
        target: Path,
        client: Client | None = None,
        size: int = 64 * MIB,
        fs_type: str = "ext4",
        block: bool = False,
        parameters: Mapping[str, str] = DIRECT,
        mount_flags: Sequence[str] = (),
        mount_group: str = "",
        read_only: bool = False,
        access_mode: AccessMode = AccessMode.SINGLE_NODE_MULTI_WRITER,
    ) -> None:
        self.name = name
        self.staging = staging
        self.target = target
        self._client = client
        self.size = size
        self.parameters = parameters
        self.read_only = read_only
        self.capability = csi.VolumeCapability(access_mode=csi.VolumeCapabilityAccessMode(mode=access_mode))
        if block:
            self.capability.block = csi.VolumeCapabilityBlockVolume()
        else:
            self.capability.mount = csi.VolumeCapabilityMountVolume(
                fs_type=fs_type, mount_flags=list(mount_flags), volume_mount_group=mount_group
            )
        self.volume_id = ""
        self.context: Mapping[str, str] = {}

    # -- what is asked ---------------------------------------------------------------------------------

    def creation(self, source: csi.VolumeContentSource | None = None) -> csi.CreateVolumeRequest:
        """What the provisioner asks for."""
        return csi.CreateVolumeRequest(
            name=self.name,
            capacity_range=csi.CapacityRange(required_bytes=self.size),
            volume_capabilities=[self.capability],
            parameters=dict(self.parameters),
            volume_content_source=source,
        )

    def to_stage(self) -> csi.NodeStageVolumeRequest:
        """What the kubelet asks for before the volume's first pod on the node."""
        return csi.NodeStageVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            volume_capability=self.capability,
            volume_context=dict(self.context),
        )

    def to_publish(self) -> csi.NodePublishVolumeRequest:
        """What it asks for before a pod starts."""
        return csi.NodePublishVolumeRequest(
            volume_id=self.volume_id,
            staging_target_path=str(self.staging),
            target_path=str(self.target),
            volume_capability=self.capability,
            volume_context=dict(self.context),
            readonly=self.read_only,
        )

    def to_unpublish(self) -> csi.NodeUnpublishVolumeRequest:
        """What it asks for when a pod has gone."""
        return csi.NodeUnpublishVolumeRequest(volume_id=self.volume_id, target_path=str(self.target))

    def to_unstage(self) -> csi.NodeUnstageVolumeRequest:
        """What it asks for after the last pod."""
        return csi.NodeUnstageVolumeRequest(volume_id=self.volume_id, staging_target_path=str(self.staging))

    # -- the calls -------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The driver's client."""
        assert self._client is not None, "somebody has connected"
        return self._client

    @client.setter
    def client(self, client: Client) -> None:
        self._client = client

    async def create(self, *, snapshot_id: str = "", source_volume_id: str = "") -> csi.CreateVolumeResponse:
        """Create it: blank, from a snapshot, or as a clone of a volume."""
        source = None
        if snapshot_id:
            snapshot = csi.VolumeContentSourceSnapshotSource(snapshot_id=snapshot_id)
            source = csi.VolumeContentSource(snapshot=snapshot)
        elif source_volume_id:
            volume = csi.VolumeContentSourceVolumeSource(volume_id=source_volume_id)
            source = csi.VolumeContentSource(volume=volume)
        answer = await self.client.controller.create_volume(self.creation(source))
        assert answer.volume is not None, "CSI: CreateVolumeResponse.volume is REQUIRED"
        self.volume_id, self.context = answer.volume.volume_id, answer.volume.volume_context
        return answer

    async def stage(self) -> csi.NodeStageVolumeResponse:
        """Stage it, on a folder that is there."""
        self.staging.mkdir(parents=True, exist_ok=True)
        return await self.client.node.node_stage_volume(self.to_stage())

    async def publish(self) -> csi.NodePublishVolumeResponse:
        """Publish it; the target's parent is there, the target is not."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        return await self.client.node.node_publish_volume(self.to_publish())

    async def unpublish(self) -> csi.NodeUnpublishVolumeResponse:
        """Unpublish it."""
        return await self.client.node.node_unpublish_volume(self.to_unpublish())

    async def unstage(self) -> csi.NodeUnstageVolumeResponse:
        """Unstage it."""
        return await self.client.node.node_unstage_volume(self.to_unstage())

    async def delete(self) -> csi.DeleteVolumeResponse:
        """Free it."""
        return await self.client.controller.delete_volume(csi.DeleteVolumeRequest(volume_id=self.volume_id))

    async def expand(self, size: int, *, at_staging: bool = False) -> csi.NodeExpandVolumeResponse:
        """Grow it to so many bytes, where it is published, or where it is only staged."""
        return await self.client.node.node_expand_volume(
            csi.NodeExpandVolumeRequest(
                volume_id=self.volume_id,
                volume_path=str(self.staging if at_staging else self.target),
                staging_target_path=str(self.staging),
                capacity_range=csi.CapacityRange(required_bytes=size),
                volume_capability=self.capability,
            )
        )

    async def stats(self) -> csi.NodeGetVolumeStatsResponse:
        """Ask how full it is, where it is published."""
        return await self.client.node.node_get_volume_stats(
            csi.NodeGetVolumeStatsRequest(
                volume_id=self.volume_id, volume_path=str(self.target), staging_target_path=str(self.staging)
            )
        )

    async def snapshot(self, name: str = "") -> csi.CreateSnapshotResponse:
        """Keep its bytes as they are now."""
        return await self.client.controller.create_snapshot(
            csi.CreateSnapshotRequest(source_volume_id=self.volume_id, name=name or f"snap-{self.name}")
        )

    async def delete_snapshot(self, snapshot_id: str) -> csi.DeleteSnapshotResponse:
        """Free a snapshot."""
        request = csi.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        return await self.client.controller.delete_snapshot(request)

    def forget_folders(self) -> None:
        """Remove what the kubelet made; both are empty by then."""
        for folder in (self.staging, self.target.parent):
            if folder.exists():
                folder.rmdir()
