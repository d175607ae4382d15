"""CSI drivers as processes, above all `katacsi serve`: they are started until they answer, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import yaml

from katacsi.csi.client import Client, RpcError, csi

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

#: How long a driver may take until it answers, and until it has ended: a machine may be busy with much else.
_START_S = 120.0
_STOP_S = 30.0
_PAUSE_S = 0.002
#: What the shell's owner wishes for drivers and Pythons of their own.
_NOT_INHERITED = ("KATACSI_", "PYTHON")


class DriverFailed(Exception):
    """A driver did not start, or did not end; the end of its log is a note of the error."""


class DriverProcess:
    """A CSI driver as a process, which may be started again once it has ended.

    Args:
        argv: its command line.
        socket: where it listens.
        log: the file to which its stdout and stderr are added.
        environment: variables beside those of this process, of which `KATACSI_*` and `PYTHON*` are left out.
        own_session: keep a terminal's Ctrl-C from it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        socket: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> None:
        self._argv = argv
        self.socket = socket
        self.log = log
        self._environment = environment or {}
        self._own_session = own_session
        #: The process that runs, or ran last.
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None, "the driver was started"
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start it and return at once; `wait_ready` says when it answers."""
        assert not self.runs, "the driver runs"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **self._environment},
                start_new_session=self._own_session,
            )

    async def wait_ready(self) -> None:
        """Wait until it answers Probe with ready.

        Raises:
            DriverFailed: it ended, or did not become ready in two minutes.
        """
        end = time.monotonic() + _START_S
        fact = "does not answer"
        async with Client(self.socket) as client:
            while self.runs and time.monotonic() < end:
                if not self.socket.exists():  # to look for it takes less than to call in vain
                    await asyncio.sleep(_PAUSE_S)
                    continue
                try:
                    answer = await client.identity.probe(csi.ProbeRequest(), timeout=_START_S)
                except RpcError as error:
                    fact = f"does not answer: {error}"
                else:
                    if answer.ready is not False:  # CSI: unset is ready
                        return
                    fact = "answers that it is not ready"
                await asyncio.sleep(_PAUSE_S)
        if not self.runs and self.process is not None:
            fact = f"ended with exit code {self.process.returncode} while it started"
        raise self._failed(fact)

    def start(self) -> None:
        """Start it and block until it answers; it raises as `wait_ready` does."""
        self.spawn()
        # In a thread of its own, where no event loop runs: the caller may be inside of one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self.wait_ready()).result()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and block until it has ended; give its exit code, negative for a signal.

        Raises:
            DriverFailed: it did not end in half a minute, and was killed.
        """
        assert self.process is not None, "the driver was started"
        self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise self._failed(f"did not end within {_STOP_S:.0f} s of {number.name}") from error

    def kill(self) -> None:
        """End it as a crash does, and block until it is gone."""
        assert self.process is not None, "the driver was started"
        self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 15) -> list[str]:
        """Give the last lines of its log."""
        try:
            return self.log.read_text("utf-8", "replace").splitlines()[-lines:]
        except OSError:
            return []

    def _failed(self, fact: str) -> DriverFailed:
        error = DriverFailed(f"the driver {fact}")
        error.add_note("\n".join(["the end of its log:", *self.tail(60)]))
        return error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note("\n".join(["the end of the driver's log:", *self.tail(200)]))
        if self.runs:
            self.stop()


class ServeProcess(DriverProcess):
    """`katacsi serve` with a configuration of its own, which is written at once.

    Args:
        folder: an existing folder for the configuration, the log, and the pool of image files.
        run: an existing folder for what is on tmpfs in production, socket, records and marks; else `folder`.
        settings: the configuration's keys; without `pools` there is one, named default, of image files.
        pool: more settings of that pool.
        node_id: the node's name.
        environment, own_session: as of `DriverProcess`.

    Attributes:
        config: the configuration.
        pool: the folder of the image files.
        records: where Kata would look for records.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        pool: Mapping[str, Any] | None = None,
        node_id: str = "node-1",
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> None:
        self.run = run = run or folder
        self.config = folder / "config.yaml"
        self.pool = folder / "pool"
        self.records = run / "direct-volumes"
        socket = run / "csi.sock"
        super().__init__(
            # -P: whatever lies in the current directory is not imported.
            [
                *(sys.executable, "-P", "-m", "katacsi", "serve", "--config", str(self.config)),
                *("--endpoint", f"unix://{socket}", "--node-id", node_id),
            ],
            socket=socket,
            log=folder / "driver.log",
            environment=environment,
            own_session=own_session,
        )
        configuration: dict[str, Any] = {
            "direct_volume_root": str(self.records),
            "state_directory": str(run / "state"),
            **(settings or {}),
        }
        if "pools" not in configuration:
            self.pool.mkdir(exist_ok=True)
            files = {"backend": "loopfile", "directory": str(self.pool), **(pool or {})}
            configuration["pools"] = {"default": files}
        self.config.write_text(yaml.safe_dump(configuration, sort_keys=False))
