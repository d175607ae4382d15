"""The demo's folders, and how everything in and under them goes away again.

Two folders: the pool's on a disk, and a short-lived one under /run for what a node keeps there (socket,
records, the kubelet's directories), whose paths have to be short enough for Kata.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from katacsi.errors import KatacsiError
from katacsi.host import loop, loopdevices, mount, mounttable

_PREFIX = "katacsi-demo-"
_DRIVER_NAME = "demo.katacsi.io"
#: How long the driver may take to finish what it does.
_STOP_S = 10.0
_LOG_LINES = 15


@dataclass
class Place:
    """Where a run of the demo happens.

    Attributes:
        pool_parent: the folder on the disk: configuration, log, pool.
        run: the folder under /run.
        processes: what was started and has to end.
    """

    pool_parent: Path
    run: Path
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    @classmethod
    def make(cls, parent: Path) -> Place:
        """Make fresh folders; all or none."""
        pool_parent = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        try:
            run_parent = "/run" if os.access("/run", os.W_OK) else None
            place = cls(pool_parent, Path(tempfile.mkdtemp(prefix=_PREFIX, dir=run_parent)).resolve())
        except OSError:
            pool_parent.rmdir()
            raise
        place.pool.mkdir()
        place.config.write_text(yaml.safe_dump(place.settings(), sort_keys=False))
        return place

    @property
    def pool(self) -> Path:
        """The pool's folder."""
        return self.pool_parent / "pool"

    @property
    def config(self) -> Path:
        """The driver's configuration."""
        return self.pool_parent / "config.yaml"

    @property
    def log(self) -> Path:
        """The driver's log."""
        return self.pool_parent / "driver.log"

    @property
    def socket(self) -> Path:
        """The driver's socket."""
        return self.run / "csi.sock"

    @property
    def records(self) -> Path:
        """Where Kata would look for records."""
        return self.run / "direct-volumes"

    @property
    def guest_mount(self) -> Path:
        """Where the guest mounts; seen by the guest alone."""
        return self.run / "guest"

    def staging(self, volume: str) -> Path:
        """A staging path, made as the kubelet makes it."""
        path = self.run / "kubelet/plugins/kubernetes.io/csi" / _DRIVER_NAME / volume / "globalmount"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def target(self, volume: str) -> Path:
        """A target path, whose parent is made as the kubelet makes it."""
        path = self.run / "kubelet/pods/demo-pod/volumes/kubernetes.io~csi" / volume / "mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def settings(self) -> dict[str, Any]:
        """The driver's configuration, as short as a person would write it."""
        return {
            "driver_name": _DRIVER_NAME,
            "direct_volume_root": str(self.records),
            "state_directory": str(self.run / "state"),
            "kube": {"enabled": False},
            "pools": {"default": {"backend": "loopfile", "directory": str(self.pool)}},
        }

    def log_tail(self) -> list[str]:
        """Give the last lines of the driver's log."""
        try:
            return self.log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        except OSError:
            return []

    # -- the end ---------------------------------------------------------------------------------------

    def clear(self, *, keep: bool) -> list[str]:
        """End, unmount, detach and remove everything; name what could not be.

        With `keep` the folder on the disk stays.
        """
        left = [*self._end_processes(), *self._unmount(), *self._detach()]
        if left:
            # Removing a folder under a mount would remove what is mounted there.
            return [*left, str(self.run), str(self.pool_parent)]
        for folder in (self.run,) if keep else (self.run, self.pool_parent):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                left.append(str(folder))
        return left

    def _end_processes(self) -> list[str]:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        left = []
        for process in self.processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    left.append(f"process {process.pid}")
        return left

    def _unmount(self) -> list[str]:
        left = []
        for entry in reversed(mounttable.table()):
            if entry.target.is_relative_to(self.run) or entry.target.is_relative_to(self.pool_parent):
                try:
                    mount.unmount(entry.target)
                except KatacsiError as error:
                    left.append(error.message)
        return left

    def _detach(self) -> list[str]:
        left = []
        for device in loopdevices.devices():
            if backing_file(device.path).is_relative_to(self.pool_parent):
                try:
                    loop.detach(device, device.backing)
                except KatacsiError as error:
                    left.append(error.message)
        return left


def backing_file(device: Path) -> Path:
    """Give the file of a loop device as the kernel names it; a device without one has the path ""."""
    try:
        text = Path("/sys/block", device.name, "loop/backing_file").read_text("utf-8", "surrogateescape")
    except OSError:
        return Path()
    return Path(text.rstrip("\n").removesuffix(" (deleted)"))
