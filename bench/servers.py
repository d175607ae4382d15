"""The two CSI drivers that are measured, as processes: started, asked, looked at, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from client import TREE
from scratch import Failure

from katacsi.testing import leaks
from katacsi.testing.kubelet import DIRECT
from katacsi.testing.process import DriverFailed, DriverProcess, ServeProcess

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A CSI driver that is measured.

    Attributes:
        name: what the tables call it.
        process: itself.
        parameters: what its CreateVolume is given.
        kubelet: the folder of the staging and target paths.
    """

    name: str
    process: DriverProcess
    kubelet: Path
    parameters: dict[str, str]

    def start(self) -> float:
        """Start it and give the milliseconds from exec to the first Probe that says ready."""
        started = time.perf_counter()
        try:
            self.process.start()
        except DriverFailed as error:
            self.stop()
            raise Failure("\n".join([f"{self.name}: {error}", *error.__notes__])) from error
        return (time.perf_counter() - started) * 1000

    def stop(self) -> None:
        """End it as kubelet would, with SIGTERM."""
        if not self.process.runs:
            return
        try:
            self.process.stop()
        except DriverFailed as error:
            raise Failure(f"{self.name}: {error}") from error
        if left := leaks.loops_below(self.kubelet.parent):
            raise Failure(f"{self.name} left loop devices behind: {', '.join(map(str, left))}")

    def resident_mib(self) -> float:
        """Give its resident memory in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Failure(f"{self.name} has ended")

    def processor_seconds(self) -> float:
        """Give the processor time that it and its ended children have used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return sum(map(int, stat.rpartition(") ")[2].split()[11:15])) / _CLOCK_TICKS


def katacsi(folder: Path, name: str = "katacsi", tree: Path = TREE) -> Server:
    """Prepare katacsi with a pool on the disk and, as on a node, records and state on tmpfs."""
    # With the bytecode beside it, as an image or an installed wheel has it.
    compiling = [sys.executable, "-m", "compileall", "-q", tree / "src" / "katacsi"]
    subprocess.run(compiling, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""}, check=True)
    home = folder / name
    for part in ("kubelet", "run"):
        (home / part).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=64m", "bench", home / "run"], check=True)
    process = ServeProcess(
        home,
        run=home / "run",
        settings={"kube": {"enabled": False}},
        pool={"overprovision_ratio": 1000},  # sparse files promise more than a small disk has
        environment={"PYTHONPATH": str(tree / "src")},
    )
    return Server(name, process, home / "kubelet", DIRECT)


def host_path(folder: Path, program: Path) -> Server:
    """Prepare csi-driver-host-path, which formats nothing: a volume is a folder that it bind-mounts."""
    home = folder / "host-path"
    for part in ("state", "kubelet"):
        (home / part).mkdir(parents=True)
    socket = home / "csi.sock"
    argv = [str(program), f"--endpoint=unix://{socket}", f"--statedir={home}/state", "--nodeid=bench"]
    process = DriverProcess(argv, socket=socket, log=home / "log")
    return Server("host-path", process, home / "kubelet", {})
