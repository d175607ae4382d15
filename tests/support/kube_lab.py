"""The cluster of a session, seen from its tests: they are outside, and reach in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kube_files import NODE_IP
from kube_inside import SYSTEM_PATH
from support.kube_door import NetworkDoor
from support.kube_http import Api, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_cluster import Cluster

TREE = Path(__file__).resolve().parent.parent.parent
#: The kubelet's folder, by its path inside.
KUBELET = Path("/var/lib/kubelet")


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Hold a process, as if its machine hung, and let it go on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Inside:
    """A process inside of the cluster, and what it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Return its number out here; the process that we started only stands at the door."""
        at_the_door = self._process.pid
        children = until(
            "the process has entered",
            lambda: Path(f"/proc/{at_the_door}/task/{at_the_door}/children").read_text("ascii").split(),
        )
        return int(children[0])

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it, alone, a signal, and wait until it has ended."""
        if self.runs:
            os.kill(self.pid, number)
            self._process.wait(60)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it, as if its machine hung, and let it go on afterwards."""
        try:
            with held(self.pid):
                yield
        finally:  # nsenter has stopped, too, when its child did
            self._process.send_signal(signal.SIGCONT)

    def end_all(self) -> None:
        """Kill it with all that it started."""
        if self.runs:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)

    def tail(self, lines: int = 30) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


class Lab:
    """A cluster that is up, with the clients of its tests."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._door: NetworkDoor | None = None
        self._api: Api | None = None
        self._started: list[Inside] = []

    @property
    def files(self):
        """Return the cluster's files."""
        return self.cluster.files

    @property
    def pid(self) -> int:
        """Return process 1 of the cluster."""
        pid = self.cluster.pid()
        assert pid is not None, "the cluster is up"
        return pid

    @property
    def api(self) -> Api:
        """Return the API as the administrator has it."""
        if self._api is None:
            self._api = self.api_as(self.files.token())
        return self._api

    def api_as(self, token: str) -> Api:
        """Return the API as the owner of a token has it."""
        if self._door is None:
            self._door = NetworkDoor(self.pid)
        return Api(self._door, (NODE_IP, 443), self.files.certificate, token)

    def up(self) -> dict[str, float]:
        """Boot, for the first time or again; return the seconds of each part."""
        return self.cluster.up(bound=True)

    def down(self) -> None:
        """Cut the node's power: what was on its disks stays."""
        if self._door:
            self._door.close()
        self._door = self._api = None
        for process in self._started:
            process.end_all()
        self._started.clear()
        self.cluster.down()

    def start(self, name: str, *argv: str | Path, **environment: str) -> Inside:
        """Start a process inside; its output is added to the log of that name."""
        log = self.files.log / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.cluster.entry(*map(str, argv)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": SYSTEM_PATH, "HOME": "/root", **environment},
                start_new_session=True,
            )
        started = Inside(process, log)
        self._started.append(started)
        return started

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command inside, and return its output."""
        answer = subprocess.run(
            self.cluster.entry(*argv),
            env=self.cluster.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not (check and answer.returncode), f"{' '.join(argv)}: {answer.stdout}"
        return answer.stdout.strip()

    def path(self, inside: Path | str) -> Path:
        """Return the path out here of a path inside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def mounts(self) -> list[str]:
        """Return the mounts inside, as lines of mountinfo."""
        return Path(f"/proc/{self.pid}/mountinfo").read_text("utf-8", "surrogateescape").splitlines()

    def in_pod(self, name: str, script: str) -> str:
        """Run a shell script in a pod, and return its output, also where it fails."""
        return self.run("kubectl", "exec", name, "--", "sh", "-c", script, check=False)

    def process_of(self, part: str) -> int:
        """Return the number out here of a part of the cluster: kubelet, kube-apiserver, …

        Raises:
            AssertionError: it does not run.
        """
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if part.encode() in words[1:2] and (entry / "ns/pid").readlink() == mine:
                    return int(entry.name)
            except OSError:  # it has ended meanwhile
                continue
        raise AssertionError(f"{part} does not run")

    def kill_kubelet(self) -> None:
        """End the kubelet as a crash does."""
        pid = self.process_of("kubelet")
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def start_kubelet(self) -> None:
        """Start the kubelet again, after it was killed."""
        program = TREE / "tools" / "kube_inside.py"
        python = TREE / ".venv" / "bin" / "python"
        self.start("kubelet", python, program, self.files.folder, "kubelet")
