"""The two CSI drivers that are measured, as processes: started, asked, looked at, stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from client import TREE, Connection
from scratch import Failure, loops_below

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: Seconds that a server has for its first answer, and for its end.
_PATIENCE_S = 30


@dataclass
class Server:
    """A CSI driver that runs.

    Attributes:
        name: what the tables call it.
        argv: its command line.
        socket: where it listens.
        parameters: what its CreateVolume is given.
        kubelet: the folder of the staging and target paths.
    """

    name: str
    argv: list[str]
    socket: Path
    log: Path
    kubelet: Path
    parameters: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and give the milliseconds from exec to the first Probe that says ready."""
        assert self._process is None
        # Without the shell's wishes: no PYTHONDONTWRITEBYTECODE, no settings by KATACSI_*.
        kept = (item for item in os.environ.items() if not item[0].startswith(("PYTHON", "KATACSI_")))
        environment = dict(kept) | self.environment
        with self.log.open("ab") as log:
            started = time.perf_counter()
            self._process = subprocess.Popen(
                self.argv, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while not self._ready():
            if self._process.poll() is not None or time.perf_counter() - started > _PATIENCE_S:
                self.stop()
                raise Failure(f"{self.name} does not serve; its last words: {self._last_words()}")
            time.sleep(0.002)
        return (time.perf_counter() - started) * 1000

    def stop(self) -> None:
        """End it as kubelet would, with SIGTERM."""
        if (process := self._process) is None:
            return
        self._process = None
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failure(f"{self.name} did not end within {_PATIENCE_S} s of SIGTERM") from None
        if left := loops_below(self.kubelet.parent):
            raise Failure(f"{self.name} left loop devices behind: {', '.join(map(str, left))}")

    def resident_mib(self) -> float:
        """Give its resident memory in MiB."""
        assert self._process is not None
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Failure(f"{self.name} has ended")

    def processor_seconds(self) -> float:
        """Give the processor time that it and its ended children have used."""
        assert self._process is not None
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return sum(map(int, stat.rpartition(") ")[2].split()[11:15])) / _CLOCK_TICKS

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            connection = Connection(self.socket)
            try:
                # ProbeResponse{ready: {value: true}}; a driver that leaves `ready` out is ready too.
                return connection.call("/csi.v1.Identity/Probe", b"") in (b"", b"\x0a\x02\x08\x01")
            finally:
                connection.close()
        return False

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip() or "none"


def katacsi(folder: Path, name: str = "katacsi", tree: Path = TREE) -> Server:
    """Prepare katacsi with a pool on the disk and, as on a node, records and state on tmpfs."""
    # With the bytecode beside it, as an image or an installed wheel has it.
    compiling = [sys.executable, "-m", "compileall", "-q", tree / "src" / "katacsi"]
    subprocess.run(compiling, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""}, check=True)
    home = folder / name
    for part in ("pool", "kubelet", "run"):
        (home / part).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=64m", "bench", home / "run"], check=True)
    config = home / "config.yaml"
    config.write_text(
        "kube: {enabled: false}\n"
        f"direct_volume_root: {home}/run/direct-volumes\n"
        f"state_directory: {home}/run/state\n"
        "pools:\n"
        # Sparse files promise more than a small disk has.
        f"  default: {{backend: loopfile, directory: {home}/pool, overprovision_ratio: 1000}}\n"
    )
    socket = home / "csi.sock"
    serve = ["-m", "katacsi", "serve", "--config", str(config), "--endpoint", f"unix://{socket}"]
    return Server(
        name,
        [sys.executable, *serve, "--node-id", "bench"],
        socket,
        home / "log",
        home / "kubelet",
        {"katacsi.io/direct": "true"},
        {"PYTHONPATH": str(tree / "src")},
    )


def host_path(folder: Path, program: Path) -> Server:
    """Prepare csi-driver-host-path, which formats nothing: a volume is a folder that it bind-mounts."""
    home = folder / "host-path"
    for part in ("state", "kubelet"):
        (home / part).mkdir(parents=True)
    socket = home / "csi.sock"
    argv = [str(program), f"--endpoint=unix://{socket}", f"--statedir={home}/state", "--nodeid=bench"]
    return Server("host-path", argv, socket, home / "log", home / "kubelet")
