"""A cluster of one node in a folder and in namespaces of its own: made, booted, entered, ended, removed.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import kube_image
import kube_machine
import kubetools
from kube_files import Files
from kube_settings import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
#: Folders of clusters that end with the process that made them.
PREFIX = "katacsi-kube-"
PATIENCE_S = 330


class Failed(Exception):
    """The cluster does not start or end; the message says why."""


class Cluster:
    """A cluster in a folder; it may be up or not."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        #: The process that stands at the door, where it is a child of ours.
        self._door: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of all that is the cluster's."""
        return self.files.folder

    def create(self) -> None:
        """Make the folder of a fresh cluster.

        Raises:
            kubetools.Unavailable: a program cannot be had.
        """
        programs = {name: str(kubetools.path(name)) for name in ("kube", "etcd", "containerd", "ctr", "runc")}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files.write(HERE / "kube_cni.py", Path(programs["runc"]))
        (self.folder / "programs.json").write_text(json.dumps(programs), "utf-8")
        (self.folder / "images").mkdir()
        kube_image.write_busybox(self.folder / "images/busybox.tar", IMAGE, kubetools.path("busybox"))

    def up(self, *, bound: bool = False) -> dict[str, float]:
        """Boot what is in the folder; return when each part was ready, in seconds.

        Args:
            bound: the cluster ends when this thread does, however it ends.

        Raises:
            Failed: it is up already, or does not come up.
        """
        if self.pid():
            raise Failed(f"the cluster in {self.folder} is up already")
        self.files.ready.unlink(missing_ok=True)
        log = self.files.log / "boot.log"
        with log.open("wb") as output:
            process = self._door = subprocess.Popen(
                [
                    *(["setpriv", "--pdeathsig", "KILL"] if bound else []),
                    *("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
                    *("--mount-proc", sys.executable, str(HERE / "kube_inside.py"), str(self.folder), "boot"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (self.folder / "unshare.pid").write_text(str(process.pid), "ascii")
        deadline = time.monotonic() + PATIENCE_S
        while not self.files.ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                self.down()
                raise Failed(f"the cluster does not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.05)
        times: dict[str, float] = json.loads(self.files.ready.read_text("utf-8"))
        return times

    def pid(self) -> int | None:
        """Return process 1 of the cluster, by its number out here; None when it is not up."""
        with contextlib.suppress(OSError, ValueError):
            outer = int((self.folder / "unshare.pid").read_text("ascii"))
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text("ascii").split()
            if children and str(self.folder).encode() in Path(f"/proc/{children[0]}/cmdline").read_bytes():
                return int(children[0])
        return None

    def entry(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside.

        Raises:
            Failed: the cluster is not up.
        """
        pid = self.pid()
        if pid is None:
            raise Failed(f"the cluster in {self.folder} is not up")
        spaces = ("--mount", "--net", "--pid", "--uts", "--ipc")
        return ["nsenter", f"--target={pid}", *spaces, f"--wd={Path.cwd()}", "--", *command]

    def environment(self) -> dict[str, str]:
        """Return our environment, with the cluster for kubectl and helm in it."""
        tools = f"{kubetools.path('kubectl').parent}:{kubetools.path('helm').parent}"
        return os.environ | {
            "KUBECONFIG": str(self.files.kubeconfig("admin")),
            "PATH": f"{tools}:{os.environ['PATH']}",
        }

    def down(self) -> None:
        """End every process of the cluster; its mounts and addresses go with them, its files stay.

        Raises:
            Failed: a loop device of it is still there.
        """
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGKILL)  # process 1: the kernel ends all others
        if self._door:
            self._door.kill()
            self._door.wait()
            self._door = None
        deadline = time.monotonic() + 30
        while pid and Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        while devices := loop_devices(self.folder):
            for device in devices:
                subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)
            if time.monotonic() > deadline:
                raise Failed(f"{', '.join(devices)} cannot be detached from files below {self.folder}")
            time.sleep(0.05)
        kube_machine.remove_cgroups(self.files.cgroup)
        kube_machine.remove_cgroups("k8s.io")  # containerd's own, also another cluster's: that one is in use

    def remove(self) -> None:
        """End the cluster, and remove its folder."""
        self.down()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def bound_cluster(parent: Path) -> Iterator[Cluster]:
    """Give a fresh cluster, not yet up, that ends with this process; first remove what others left behind."""
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster(folder)
        try:
            cluster.create()
            yield cluster
        finally:
            cluster.remove()


def sweep(parent: Path) -> None:
    """Remove clusters of processes that were killed: nobody holds the lock of such a one."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Cluster(folder).remove()


def loop_devices(folder: Path) -> list[str]:
    """Return the loop devices whose files are, or were, below a folder; those that lie on others come first.

    What a container attached has the path that its file had there, so a volume on a filesystem of ours is
    found by the device of that filesystem.
    """
    found: list[str] = []
    for state in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached between listing and reading
            file = state.read_text("utf-8", "surrogateescape").removesuffix("\n")
            if Path(file.removesuffix(" (deleted)")).is_relative_to(folder):
                found.append(f"/dev/{state.parts[3]}")
    beneath = _devices_beneath()
    for device in found:  # it grows meanwhile: a device may lie on one that lies on ours
        with contextlib.suppress(OSError):
            node = Path(device).stat().st_rdev
            number = f"{os.major(node)}:{os.minor(node)}"
            found += [above for above, below in beneath.items() if below == number and above not in found]
    return found[::-1]


def _devices_beneath() -> dict[str, str]:
    """Return, of each loop device, the major:minor of the device that the filesystem of its file is on."""
    columns = "NAME,BACK-MAJ:MIN"
    said = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", columns],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = (line.split() for line in said.stdout.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}
