"""A node whose workflows run in the test's process: real pools, devices, mounts and records, no socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.app import workflows_of
from katacsi.directvolume.names import entry_name
from katacsi.host import command, superblock
from katacsi.metrics import Metrics
from katacsi.model import AccessMode, AccessType, Capability, SizeRange, VolumeId, storage_name
from katacsi.settings import parse
from katacsi.testing import leaks
from katacsi.volumes.requests import (
    CreateVolume,
    Expand,
    GetStats,
    Publish,
    SourceKind,
    SourceRef,
    Stage,
    Stats,
    VolumeView,
)
from support import blockdevices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from katacsi.backends.api import Facts, Snapshot
    from katacsi.volumes.workflows import Workflows

MIB = 1 << 20
DIRECT = "katacsi.io/direct"

#: The smallest sizes that are quick: xfs refuses less than 300 MiB, btrfs less than 109.
SIZES = {"ext4": 16 * MIB, "xfs": 304 * MIB, "btrfs": 128 * MIB, "": 8 * MIB}

_GO_SOCKETS = Path("/run/vc/sbs")


class Node:
    """The folders of a node, and the driver that serves it now."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.pool = scratch / "pool"
        self.records = scratch / "records"
        self.state = scratch / "state"
        self.pods = scratch / "pods"
        self.staging = scratch / "staging"
        for folder in (self.pool, self.pods, self.staging):
            folder.mkdir(exist_ok=True)
        self.settings: dict[str, Any] = {
            "direct_volume_root": str(self.records),
            "state_directory": str(self.state),
            "pools": {"default": {"backend": "loopfile", "directory": str(self.pool)}},
        }
        self._running: Workflows | None = None

    @property
    def driver(self) -> Workflows:
        """The workflows of the process that runs now."""
        assert self._running is not None, "the driver does not run"
        return self._running

    async def start(self, **settings: Any) -> Workflows:
        """Start, with these settings instead of the former ones."""
        self.settings |= settings
        workflows = workflows_of(parse(self.settings, where="test"), "node-1", Metrics.create())
        await workflows.start()
        self._running = workflows
        return workflows

    async def stop(self) -> None:
        """Stop, if it runs; volumes stay as they are."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    async def restart(self, **settings: Any) -> Workflows:
        """Stop and start again: what was only in memory is gone."""
        await self.stop()
        return await self.start(**settings)

    async def restart_without_facts(self) -> Workflows:
        """Start again after the state directory was lost."""
        await self.stop()
        for file in self.state.rglob("*.json"):
            file.unlink()
        return await self.start()

    def clear(self) -> None:
        """Take away what tests leave in the kernel on purpose: a pod that still runs."""
        for folder in (self.pods, self.staging, self.scratch / "guest", *self.pools):
            left = leaks.leaks_below(folder)
            leaks.undo(leaks.Leaks([mount for mount in left.mounts if mount != folder], left.loops))

    # -- what a person sees ----------------------------------------------------------------------------

    def disk(self, name: str) -> Path:
        """The file that holds a volume's bytes."""
        return self.pool / "volumes" / storage_name(name) / "disk.img"

    def record(self, target: Path) -> dict[str, Any] | None:
        """What Kata would read for a target."""
        file = self.record_file(target)
        return json.loads(file.read_text()) if file.exists() else None

    def record_file(self, target: Path) -> Path:
        """Where Kata looks for a target's record."""
        return self.records / entry_name(str(target)) / "mountInfo.json"

    @property
    def devices(self) -> list[Path]:
        """The loop devices of this node's pools."""
        return [device for folder in self.pools for device in leaks.loops_below(folder)]

    @property
    def pools(self) -> list[Path]:
        """The folders of its pools."""
        return [Path(pool["directory"]) for pool in self.settings["pools"].values()]


@dataclass
class Volume:
    """A volume and how its pod wants it; the calls are those of the sidecars and the kubelet."""

    node: Node
    name: str = "pvc-1"
    fs_type: str = "ext4"
    direct: bool = False
    size: int = 0
    limit: int = 0
    access: AccessType = AccessType.MOUNT
    mode: AccessMode = AccessMode.SINGLE_NODE_MULTI_WRITER
    mount_flags: tuple[str, ...] = ()
    mount_group: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.access is AccessType.BLOCK:
            self.fs_type = ""
        self.size = self.size or SIZES[self.fs_type]
        self.staging = self.node.staging / storage_name(self.name)
        self.target = self.node.pods / storage_name(self.name) / "mount"

    # -- the calls -------------------------------------------------------------------------------------

    def capability(self, **other: Any) -> Capability:
        """How the volume is wanted."""
        wanted: dict[str, Any] = {
            "access_type": self.access,
            "access_mode": self.mode,
            "fs_type": self.fs_type,
            "mount_flags": self.mount_flags,
            "mount_group": self.mount_group,
        }
        return Capability(**wanted | other)

    def creation(self, **other: Any) -> CreateVolume:
        """The request that makes it."""
        wanted: dict[str, Any] = {
            "name": self.name,
            "size": SizeRange(self.size, self.limit),
            "capabilities": (self.capability(),),
            "parameters": {DIRECT: "true" if self.direct else "false", **self.parameters},
        }
        return CreateVolume(**wanted | other)

    async def create(
        self,
        source: VolumeView | Snapshot | None = None,
        *,
        source_ref: SourceRef | None = None,
        **other: Any,
    ) -> VolumeView:
        """Create it, blank or as a copy of a snapshot or another volume."""
        if isinstance(source, VolumeView):
            source_ref = SourceRef(SourceKind.VOLUME, str(source.volume.id))
        elif source is not None:
            source_ref = SourceRef(SourceKind.SNAPSHOT, str(source.id))
        other["source"] = source_ref
        view = await self.node.driver.provisioning.create(self.creation(**other))
        self.id, self.context = str(view.volume.id), view.context
        return view

    async def stage(self, **other: Any) -> None:
        """Stage it; the kubelet makes the staging path."""
        self.staging.mkdir(exist_ok=True)
        wanted: dict[str, Any] = {
            "volume_id": self.id,
            "staging_path": str(self.staging),
            "capability": self.capability(),
            "volume_context": self.context,
        }
        await self.node.driver.staging.stage(Stage(**wanted | other))

    async def publish(self, target: Path | None = None, **other: Any) -> Path:
        """Publish it; the kubelet makes the target's parent."""
        target = target or self.target
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted: dict[str, Any] = {
            "volume_id": self.id,
            "staging_path": str(self.staging),
            "target_path": str(target),
            "capability": self.capability(),
            "volume_context": self.context,
        }
        await self.node.driver.publishing.publish(Publish(**wanted | other))
        return target

    async def unpublish(self, target: Path | None = None) -> None:
        """Unpublish it."""
        await self.node.driver.unpublishing.unpublish(self.id, str(target or self.target))

    async def unstage(self) -> None:
        """Unstage it."""
        await self.node.driver.staging.unstage(self.id, str(self.staging))

    async def expand(
        self, size: int, *, path: Path | None = None, limit: int = 0, secrets: Mapping[str, str] | None = None
    ) -> int:
        """Grow it to a size."""
        wanted = SizeRange(size, limit)
        request = Expand(self.id, str(path or self.target), wanted, str(self.staging), secrets=secrets or {})
        return await self.node.driver.expansion.expand(request)

    async def stats(self, path: Path | None = None) -> Stats:
        """Ask how full it is."""
        return await self.node.driver.usage.stats(GetStats(self.id, str(path or self.target)))

    async def snapshot(self, name: str = "snap-1") -> Snapshot:
        """Keep its bytes as they are."""
        return await self.node.driver.snapshots.create(name, self.id, {})

    async def delete(self) -> None:
        """Free it."""
        await self.node.driver.provisioning.delete(self.id)

    async def up(self, **publish: Any) -> Path:
        """Bring it from nothing to its pod."""
        await self.create()
        await self.stage()
        return await self.publish(**publish)

    async def down(self) -> None:
        """Take it from its pod and off the node."""
        await self.unpublish()
        await self.unstage()

    # -- what a person sees ----------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """The file that holds its bytes."""
        return self.node.disk(self.name)

    @property
    def device(self) -> Path:
        """The loop device that it has; there has to be exactly one."""
        devices = list(leaks.loops_below(self.disk.parent))
        assert len(devices) == 1, f"{self.name} has {devices}"
        return devices[0]

    @property
    def attached(self) -> bool:
        """Whether it has a device."""
        return bool(leaks.loops_below(self.disk.parent))

    @property
    def filesystem(self) -> superblock.Superblock | None:
        """What its device, or else its file, shows."""
        return superblock.read(self.device if self.attached else self.disk)

    async def facts(self) -> Facts:
        """What is stored with it."""
        return (await self.node.driver.provisioning.get(self.id)).volume.facts

    async def set_facts(self, **changes: object) -> None:
        """Store facts as a crash would have left them."""
        parsed = VolumeId.parse(self.id)
        backend = await self.node.driver.context.pools.holding(parsed)
        facts = await self.facts()
        await backend.compare_and_set_facts(parsed, facts, facts.with_(**changes))

    def write(self, name: str = "data", data: bytes = b"the workload's bytes") -> None:
        """Write through the target, as a pod without Kata does."""
        path = self.target / name
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def guest(self) -> Iterator[Path]:
        """Mount the device as the kernel of its guest does."""
        with blockdevices.mounted(
            self.device, self.node.scratch / "guest", *(["nouuid"] if self.fs_type == "xfs" else [])
        ) as mounted:
            yield mounted

    def guest_writes(self, name: str = "data", data: bytes = b"the guest's bytes") -> None:
        """Write as the guest does, and stop it."""
        with self.guest() as mounted:
            (mounted / name).write_bytes(data)

    def guest_reads(self, name: str = "data") -> bytes:
        """Read as the guest does."""
        with self.guest() as mounted:
            return (mounted / name).read_bytes()


def mounts_at(path: Path) -> int:
    """Count the mounts that are stacked at a path."""
    return sum(mount.target == path for mount in leaks.mounts())


@contextlib.contextmanager
def held(device: Path) -> Iterator[None]:
    """Have another process hold a device open, as a hypervisor does."""
    with device.open("rb") as handle:
        process = subprocess.Popen(["sleep", "60"], stdin=handle)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def live_go_sandbox(node: Node, target: Path) -> Iterator[str]:
    """Have a Go shim listen, and its sandbox id beside the record, as when the pod's container started."""
    sandbox = f"katacsi-test-{uuid.uuid4()}"
    missing = [folder for folder in (_GO_SOCKETS, _GO_SOCKETS.parent) if not folder.exists()]
    folder = _GO_SOCKETS / sandbox
    folder.mkdir(parents=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(folder / "shim-monitor.sock"))
        listener.listen()
        (node.record_file(target).parent / sandbox).touch()
        yield sandbox
    finally:
        listener.close()
        (folder / "shim-monitor.sock").unlink(missing_ok=True)
        for made in (folder, *missing):
            made.rmdir()


@contextlib.contextmanager
def tools_run() -> Iterator[list[str]]:
    """Note the name of every tool that is run meanwhile."""
    noted: list[str] = []
    command.observe(lambda tool, outcome, seconds: noted.append(tool))
    try:
        yield noted
    finally:
        command.observe(lambda tool, outcome, seconds: None)


@contextlib.asynccontextmanager
async def serving(scratch: Path, **settings: Any) -> AsyncIterator[Node]:
    """Serve a node until the block ends."""
    node = Node(scratch)
    await node.start(**settings)
    try:
        yield node
    finally:
        try:
            await node.stop()
        finally:
            node.clear()
