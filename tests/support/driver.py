"""A real driver: the process that operators run, with a configuration and a socket of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from types import TracebackType

NODE = "node-1"


@dataclass
class Driver:
    """`katacsi serve` on a scratch folder; use it with `with`.

    Records and facts lie in a folder below /run, which is tmpfs as in production.
    """

    scratch: Path
    settings: dict[str, Any] = field(default_factory=dict)
    pool: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.run = Path(tempfile.mkdtemp(prefix="katacsi-test-", dir="/run"))
        self.socket = self.scratch / "csi.sock"
        self.log = self.scratch / "driver.log"
        self.config = self.scratch / "katacsi.yaml"
        pool = self.scratch / "pool"
        pool.mkdir(exist_ok=True)
        self.config.write_text(
            yaml.safe_dump(
                {
                    "driver_name": "test.katacsi.io",
                    "direct_volume_root": str(self.run / "direct-volumes"),
                    "state_directory": str(self.run / "state"),
                    "pools": {"default": {"backend": "loopfile", "directory": str(pool), **self.pool}},
                    **self.settings,
                }
            )
        )

    def start(self) -> None:
        """Start the process and wait until its socket is there."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "katacsi", "serve", "--config", self.config,
                    "--endpoint", f"unix://{self.socket}", "--node-id", NODE,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        end = time.monotonic() + 20
        while not self.socket.is_socket():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the driver did not start:\n{self.log.read_text()}")
            time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process and give its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.stop()
        if error is not None:
            print(self.log.read_text()[-20000:])
        subprocess.run(["rm", "-rf", "--one-file-system", self.run], check=True)
