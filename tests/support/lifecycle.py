"""One volume as its callers see it: the sidecars' and the kubelet's RPCs, and the workload's bytes."""

from __future__ import annotations

import ctypes
import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from katacsi.csi.client import Client, csi
from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MIB = 1 << 20

#: The smallest sizes that are quick: xfs refuses less than 300 MiB, btrfs less than 109.
SIZES = {"ext4": 32 * MIB, "xfs": 304 * MIB, "btrfs": 128 * MIB, "": 16 * MIB}

_BLOCK_DATA_AT = MIB
_DATA_BYTES = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Serving(Protocol):
    """Where a volume lives: a driver with its folders, and a client that changes with each restart."""

    client: Client | None
    pool: Path
    pods: Path
    staging: Path
    scratch: Path


@dataclass
class Life:
    """A volume, from its name to its last byte.

    Attributes:
        way: `direct`, `host` or `block`.
        fs_type: empty for block.
    """

    driver: Serving
    name: str
    way: str
    fs_type: str = ""
    size: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    mount_group: str = ""
    read_only: bool = False
    mount_flags: tuple[str, ...] = ()
    volume_id: str = ""
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.size = self.size or SIZES[self.fs_type]
        self.staging = self.driver.staging / self.name
        self.target = self.driver.pods / self.name / "mount"

    # -- the RPCs --------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The client of the driver that runs now."""
        assert self.driver.client is not None, "the driver does not run"
        return self.driver.client

    @property
    def capability(self) -> csi.VolumeCapability:
        """How the volume is wanted: ReadWriteOnce, as Kubernetes sends it."""
        mode = csi.VolumeCapabilityAccessMode(
            mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_MULTI_WRITER
        )
        if self.way == "block":
            return csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume(), access_mode=mode)
        return csi.VolumeCapability(
            mount=csi.VolumeCapabilityMountVolume(
                fs_type=self.fs_type,
                mount_flags=list(self.mount_flags),
                volume_mount_group=self.mount_group,
            ),
            access_mode=mode,
        )

    async def create(self, snapshot_id: str = "", source_volume_id: str = "") -> csi.CreateVolumeResponse:
        """Create it, blank or from a source."""
        source = None
        if snapshot_id:
            source = csi.VolumeContentSource(
                snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id=snapshot_id)
            )
        elif source_volume_id:
            source = csi.VolumeContentSource(
                volume=csi.VolumeContentSourceVolumeSource(volume_id=source_volume_id)
            )
        answer = await self.client.controller.create_volume(
            csi.CreateVolumeRequest(
                name=self.name,
                capacity_range=csi.CapacityRange(required_bytes=self.size),
                volume_capabilities=[self.capability],
                parameters={
                    "katacsi.io/direct": "true" if self.way == "direct" else "false",
                    **self.parameters,
                },
                volume_content_source=source,
            )
        )
        assert answer.volume is not None
        self.volume_id = answer.volume.volume_id
        self.context = answer.volume.volume_context
        return answer

    async def stage(self) -> csi.NodeStageVolumeResponse:
        """Stage it; the kubelet makes the staging path."""
        self.staging.mkdir(exist_ok=True)
        return await self.client.node.node_stage_volume(
            csi.NodeStageVolumeRequest(
                volume_id=self.volume_id,
                staging_target_path=str(self.staging),
                volume_capability=self.capability,
                volume_context=dict(self.context),
            )
        )

    async def publish(self) -> csi.NodePublishVolumeResponse:
        """Publish it; the kubelet makes the target's parent."""
        self.target.parent.mkdir(exist_ok=True)
        return await self.client.node.node_publish_volume(
            csi.NodePublishVolumeRequest(
                volume_id=self.volume_id,
                staging_target_path=str(self.staging),
                target_path=str(self.target),
                volume_capability=self.capability,
                volume_context=dict(self.context),
                readonly=self.read_only,
            )
        )

    async def unpublish(self) -> csi.NodeUnpublishVolumeResponse:
        """Unpublish it."""
        return await self.client.node.node_unpublish_volume(
            csi.NodeUnpublishVolumeRequest(volume_id=self.volume_id, target_path=str(self.target))
        )

    async def unstage(self) -> csi.NodeUnstageVolumeResponse:
        """Unstage it."""
        return await self.client.node.node_unstage_volume(
            csi.NodeUnstageVolumeRequest(volume_id=self.volume_id, staging_target_path=str(self.staging))
        )

    async def expand(self, size: int, *, at_staging: bool = False) -> csi.NodeExpandVolumeResponse:
        """Grow it to a size."""
        return await self.client.node.node_expand_volume(
            csi.NodeExpandVolumeRequest(
                volume_id=self.volume_id,
                volume_path=str(self.staging if at_staging else self.target),
                staging_target_path=str(self.staging),
                capacity_range=csi.CapacityRange(required_bytes=size),
                volume_capability=self.capability,
            )
        )

    async def snapshot(self, name: str = "") -> csi.CreateSnapshotResponse:
        """Keep its bytes as they are."""
        return await self.client.controller.create_snapshot(
            csi.CreateSnapshotRequest(source_volume_id=self.volume_id, name=name or f"snap-{self.name}")
        )

    async def delete_snapshot(self, snapshot_id: str) -> csi.DeleteSnapshotResponse:
        """Free a snapshot."""
        return await self.client.controller.delete_snapshot(
            csi.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        )

    async def delete(self) -> csi.DeleteVolumeResponse:
        """Free it."""
        return await self.client.controller.delete_volume(csi.DeleteVolumeRequest(volume_id=self.volume_id))

    def forget_folders(self) -> None:
        """Remove what the kubelet made; both must be empty by then."""
        for folder in (self.staging, self.target.parent):
            if folder.exists():
                folder.rmdir()

    # -- the workload ----------------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """The file that holds its bytes."""
        return self.driver.pool / "volumes" / self.name / "disk.img"

    def device(self) -> Path:
        """The loop device that it has; there has to be exactly one."""
        devices = list(leaks.loops_below(self.disk.parent))
        assert len(devices) == 1, f"{self.name} has {devices}"
        return devices[0]

    def write(self, seed: int = 0) -> None:
        """Write bytes the way its workload does, durably."""
        data = pattern(self.name, seed)
        if self.way == "block":
            _write_at(self.target, data, _BLOCK_DATA_AT)
        elif self.way == "host":
            _write_file(self.target / f"data-{seed}", data)
        else:
            with Guest(self) as mounted:
                _write_file(mounted / f"data-{seed}", data)

    def read(self, seed: int = 0) -> bytes:
        """Read what was written, the way its workload does."""
        if self.way == "block":
            with self.target.open("rb", buffering=0) as device:
                return os.pread(device.fileno(), _DATA_BYTES, _BLOCK_DATA_AT)
        if self.way == "host":
            return (self.target / f"data-{seed}").read_bytes()
        with Guest(self) as mounted:
            return (mounted / f"data-{seed}").read_bytes()

    def assert_holds(self, seed: int = 0, *, of: str = "") -> None:
        """Compare what it holds with what was written to it, or to the volume it is a copy of."""
        assert self.read(seed) == pattern(of or self.name, seed), f"{self.name} lost bytes"


class Guest:
    """Mounts a direct volume's device elsewhere, as the kernel of its guest would."""

    def __init__(self, life: Life) -> None:
        self._device = life.device()
        self._fs_type = life.fs_type
        self._at = life.driver.scratch / f"guest-{life.name}"

    def __enter__(self) -> Path:
        self._at.mkdir()
        options = b"nouuid" if self._fs_type == "xfs" else b""
        if _libc.mount(bytes(self._device), bytes(self._at), self._fs_type.encode(), 0, options):
            error = ctypes.get_errno()
            self._at.rmdir()
            raise AssertionError(f"a guest cannot mount {self._device}: {os.strerror(error)}")
        return self._at

    def __exit__(self, *exception: object) -> None:
        assert _libc.umount2(bytes(self._at), 0) == 0, os.strerror(ctypes.get_errno())
        self._at.rmdir()


def pattern(name: str, seed: int) -> bytes:
    """Give the bytes that a volume's workload writes; no two volumes have the same."""
    return random.Random(f"{name} {seed}").randbytes(_DATA_BYTES)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_at(path: Path, data: bytes, offset: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)
