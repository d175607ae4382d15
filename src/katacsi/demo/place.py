"""The demo's folders, and how everything in and under them goes away again.

Two folders: the pool's on a disk, and a short-lived one under /run for what a node keeps there (socket,
records, the kubelet's directories), whose paths have to be short enough for Kata.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.testing import leaks
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from katacsi.csi.client import Client

_PREFIX = "katacsi-demo-"
_DRIVER_NAME = "demo.katacsi.io"
#: How long a process may take to finish what it does.
_STOP_S = 10.0


@dataclass
class Place:
    """Where a run of the demo happens.

    Attributes:
        disk: the folder on the disk: configuration, log, pool.
        run: the folder under /run.
        driver: the driver, which works in both.
        guests: the guests that were started and have to end.
    """

    disk: Path
    run: Path
    driver: ServeProcess
    guests: list[subprocess.Popen[Any]] = field(default_factory=list)

    @classmethod
    def make(cls, parent: Path) -> Place:
        """Make fresh folders; all or none."""
        disk = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        try:
            run_parent = "/run" if os.access("/run", os.W_OK) else None
            run = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=run_parent)).resolve()
        except OSError:
            disk.rmdir()
            raise
        driver = ServeProcess(
            disk,
            run=run,
            settings={"driver_name": _DRIVER_NAME, "kube": {"enabled": False}},
            node_id="demo-node",
            own_session=True,  # Ctrl-C is for the demo, which then ends the driver in its turn
        )
        return cls(disk, run, driver)

    @property
    def guest_mount(self) -> Path:
        """Where the guest mounts; seen by the guest alone."""
        return self.run / "guest"

    def volume(self, name: str, client: Client, size: int) -> Volume:
        """Give a direct volume of ext4, on paths like the kubelet's."""
        kubelet = self.run / "kubelet"
        return Volume(
            name,
            client=client,
            staging=kubelet / "plugins/kubernetes.io/csi" / _DRIVER_NAME / name / "globalmount",
            target=kubelet / "pods/demo-pod/volumes/kubernetes.io~csi" / name / "mount",
            size=size,
        )

    def clear(self, *, keep: bool) -> list[str]:
        """End, unmount, detach and remove everything; name what could not be.

        With `keep` the folder on the disk stays.
        """
        left = self._end_processes()
        for folder in (self.run, self.disk):
            leaks.undo(leaks.leaks_below(folder), lazily=False)
            if found := leaks.settled_leaks_below(folder):
                left += str(found).splitlines()
        if left:
            # Removing a folder under a mount would remove what is mounted there.
            return [*left, str(self.run), str(self.disk)]
        for folder in (self.run,) if keep else (self.run, self.disk):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                left.append(str(folder))
        return left

    def _end_processes(self) -> list[str]:
        processes = [*self.guests, *([self.driver.process] if self.driver.process else [])]
        for process in processes:
            process.terminate()
        left = []
        for process in processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    left.append(f"process {process.pid}")
        return left
