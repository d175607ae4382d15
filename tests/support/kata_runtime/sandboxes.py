"""A sandbox of either runtime: a guest, its containers, and the way a container's mounts get there.

A container here is a folder of the guest with its mounts below, and commands that run there.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support import shims
from support.kata_runtime import records
from support.kata_runtime.agent import Agent, FsGroup
from support.kata_runtime.records import CreateFailed
from support.kata_runtime.sharing import Shares

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from support.kata_runtime.machine import Answer, Machine, Places

SOCKET = "shim-monitor.sock"


@dataclass(frozen=True)
class OciMount:
    """A bind mount as containerd asks for it; for a volume the source is CSI's target path."""

    source: str
    destination: str = "/data"
    read_only: bool = False


@dataclass
class Container:
    """A container that runs in a sandbox."""

    id: str
    root: str
    machine: Machine
    undo: ExitStack = field(default_factory=ExitStack)

    def run(self, command: str, *, at: str = "/data", timeout: float = 60) -> Answer:
        """Run a shell command in the folder of a mount."""
        return self.machine.run(f"cd {shlex.quote(self.root + at)} && {{ {command}\n}}", timeout=timeout)

    def must(self, command: str, *, at: str = "/data", timeout: float = 60) -> str:
        """Run a command that has to succeed; give what it says."""
        answer = self.run(command, at=at, timeout=timeout)
        assert answer.code == 0, f"{command}: {answer.output}"
        return answer.output.strip()


@dataclass
class Disk:
    """A device that the guest has."""

    serial: str
    name: str
    users: int = 0


@dataclass
class _Storage:
    """A mount in the guest that containers' mounts are made of."""

    disk: Disk
    at: str
    users: int = 0


class Sandbox(ABC):
    """One pod's guest, as its shim runs it; use it with `with`.

    Args:
        places: where the shim and its neighbours meet.
        machine: the guest; it may have served other sandboxes before.
        disable_block_device_use: Kata's setting, the default of which is true in the Go runtime since 3.26.
        resizes: whether the agent can resize a volume; it cannot in any release of Kata.
    """

    name: str
    shim: shims.GoShim | shims.RustShim
    _shared_below: str
    _shares_by_container: bool
    _sockets: Path

    def __init__(
        self,
        places: Places,
        machine: Machine,
        *,
        disable_block_device_use: bool = False,
        resizes: bool = False,
    ) -> None:
        self.id = secrets.token_hex(32)
        self.machine = machine
        self.agent = Agent(machine)
        self.resizes = resizes
        self.containers: list[Container] = []
        self.log: list[str] = []
        self._places = places
        self._disabled = disable_block_device_use
        self._shares = Shares(places, self.id, self._shared_below, by_container=self._shares_by_container)
        self._disks: dict[object, Disk] = {}
        self._forgotten: list[Disk] = []
        self._storages: dict[str, _Storage] = {}
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._shares.open()
        self._running.callback(self._shares.close)
        self._running.enter_context(_folder(self._places.bundles))
        self._running.enter_context(_folder(self._places.sandboxes))
        self._running.enter_context(_link(self._places.sandboxes / self.id, self._places.shared / self.id))
        self._running.enter_context(_folder(self._sockets / self.id))
        self._running.enter_context(shims.in_thread(self.shim))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the containers and the sandbox; again is no error."""
        with self._running:
            for container in list(self.containers):
                self.stop_container(container)
            # The guest ends with its sandbox, and the disks that were forgotten in it. Here it serves others.
            for disk in self._forgotten:
                self.machine.unplug(disk.serial)
            self._forgotten.clear()

    def kill(self) -> None:
        """Cut the guest's power; what it had is gone, and the node cleans up after it."""
        self.machine.kill()
        self._clean_up()

    @abstractmethod
    def kill_shim(self) -> None:
        """Kill the shim. The container runtime cleans up, and the pod is gone for everybody but its guest."""

    def _clean_up(self) -> None:
        """Take away what the node had of the sandbox; the guest is none of it."""
        for container in self.containers:
            self._remove_bundle(container.id)
        self.containers.clear()
        self._disks.clear()
        self._forgotten.clear()
        self._storages.clear()
        self._running.close()

    # -- containers --------------------------------------------------------------------------------------

    def create(self, *mounts: OciMount) -> Container:
        """Create a container with its mounts, and start it.

        Raises:
            CreateFailed: the runtime refuses; nothing of the container is left.
        """
        container_id = secrets.token_hex(32)
        with ExitStack() as undo:
            self._write_bundle(container_id, mounts)
            undo.callback(self._remove_bundle, container_id)
            container = Container(container_id, f"/run/containers/{container_id[:12]}", self.machine)
            for mount in mounts:
                _as_containerd(mount)
                source = self._prepare(container_id, mount, undo)
                at = container.root + mount.destination
                self.agent.bind(source, at, read_only=mount.read_only)
                undo.callback(self.agent.unmount, at)
            container.undo = undo.pop_all()
        self.containers.append(container)
        return container

    def stop_container(self, container: Container) -> None:
        """End a container; the last user of a volume takes it from the guest."""
        self.containers.remove(container)
        container.undo.close()

    def _write_bundle(self, container_id: str, mounts: tuple[OciMount, ...]) -> None:
        """Leave what containerd leaves: the bundle of the container, with its OCI config."""
        bundle = self._places.bundles / container_id
        bundle.mkdir()
        config = {
            "ociVersion": "1.1.0",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec"]},
                *(
                    {
                        "destination": mount.destination,
                        "type": "bind",
                        "source": mount.source,
                        "options": ["rbind", "rprivate", "ro" if mount.read_only else "rw"],
                    }
                    for mount in mounts
                ),
            ],
            "annotations": {
                "io.kubernetes.cri.container-type": "container",
                "io.kubernetes.cri.sandbox-id": self.id,
            },
        }
        (bundle / "config.json").write_text(json.dumps(config))

    def _remove_bundle(self, container_id: str) -> None:
        bundle = self._places.bundles / container_id
        (bundle / "config.json").unlink()
        bundle.rmdir()

    @abstractmethod
    def _prepare(self, container_id: str, mount: OciMount, undo: ExitStack) -> str:
        """Bring what a mount means into the guest, and give the path that it has there."""

    def _share(self, container_id: str, mount: OciMount, undo: ExitStack) -> str:
        in_guest, on_host = self._shares.share(mount.source, container_id, mount.destination)
        undo.callback(self._shares.unshare, on_host)
        return in_guest

    # -- devices -----------------------------------------------------------------------------------------

    def _attach(self, key: object, device: str, undo: ExitStack, *, read_only: bool) -> Disk:
        """Plug a device, or count one more user; the first user decides whether it is read-only."""
        disk = self._disks.get(key)
        if disk is None:
            serial = f"vol-{secrets.token_hex(6)}"
            disk = Disk(serial, self.machine.plug(Path(device), serial, read_only=read_only))
            self._disks[key] = disk
        disk.users += 1
        undo.callback(self._detach, key, disk)
        return disk

    def _detach(self, key: object, disk: Disk) -> None:
        """Count one user less; the last one unplugs it."""
        disk.users -= 1
        if not disk.users:
            del self._disks[key]
            self.machine.unplug(disk.serial)

    def _mount(
        self, disk: Disk, at: str, record: records.Record, options: list[str], undo: ExitStack,
        *, group: FsGroup | None = None,
    ) -> None:  # fmt: skip
        """Mount a device in the guest, or count one more user of that mount (agent, add_storages)."""
        storage = self._storages.get(at)
        if storage is None:
            self.agent.mount_storage(disk.name, at, record.fs_type, options, group)
            storage = self._storages[at] = _Storage(disk, at)
        storage.users += 1
        undo.callback(self._unmount, storage)

    def _unmount(self, storage: _Storage) -> None:
        storage.users -= 1
        if not storage.users:
            del self._storages[storage.at]
            self.agent.unmount(storage.at)

    # -- what the shim is asked --------------------------------------------------------------------------

    def _guest_agent(self) -> shims.Agent:
        return shims.Agent(stats=self._stats, resize=self._resize)

    def _stats(self, at: str) -> shims.Numbers:
        try:
            usage = self.agent.usage(at)
        except CreateFailed as error:
            raise shims.AgentError("Internal", str(error)) from error
        return shims.Numbers(
            total_bytes=usage.blocks * usage.block_size,
            available_bytes=usage.free_blocks * usage.block_size,
            total_inodes=usage.files,
            available_inodes=usage.free_files,
        )

    def _resize(self, at: str, size_bytes: int) -> None:
        if not self.resizes:
            raise shims.AgentError("Unimplemented", "resize_volume is not implemented in kata-agent")
        storage = self._storages.get(at)
        if storage is None:
            raise shims.AgentError("NotFound", f"{at}: no such storage")
        self.machine.resize(storage.disk.serial, size_bytes)
        try:
            self.agent.grow(storage.at, storage.disk.name)
        except CreateFailed as error:
            raise shims.AgentError("Internal", str(error)) from error


@contextmanager
def _link(path: Path, to: Path) -> Iterator[None]:
    """Have a symbolic link for a while."""
    path.symlink_to(to)
    try:
        yield
    finally:
        path.unlink()


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Have a folder, and its parents, for a while; one that others use stays."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _as_containerd(mount: OciMount) -> None:
    """Make a source that is missing, as containerd and CRI-O do before the runtime sees the mount."""
    Path(mount.source).mkdir(mode=0o755, parents=True, exist_ok=True)


def is_read_only(device: str) -> bool:
    """Ask the host's kernel, as BLKROGET does."""
    number = Path(device).stat().st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro").read_text().strip() == "1"
