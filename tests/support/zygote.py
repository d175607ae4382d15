"""Real driver processes that start in milliseconds and can be told at which step to die.

`support.crash_launcher` is the process at the other end of the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from katacsi.csi.client import Client
from katacsi.testing import leaks
from support import crash_launcher, kata_runtime_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BEFORE, AFTER, TORN = crash_launcher.BEFORE, crash_launcher.AFTER, crash_launcher.TORN
NODE = "node-1"
#: How long a start may take on a machine that is busy with something else.
_START_S = 20.0
#: How long a stand-in for `kata-runtime` rests between two steps, so that it can be killed there.
COMMAND_PAUSES_S = 0.06


class Zygote:
    """A process that has imported the driver and forks one whenever it is asked to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, crash_launcher.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={key: value for key, value in os.environ.items() if not key.startswith("KATACSI_")},
        )
        #: All that can be a step.
        self.steps: list[str] = self._answer()["steps"]

    def start(self, **request: str) -> int:
        """Fork a driver; give its process id."""
        return int(self._ask({"do": "start", **request})["pid"])

    def wait(self, pid: int) -> int:
        """Wait for the end of a driver; give its exit status, negative for a signal."""
        return int(self._ask({"do": "wait", "pid": pid})["status"])

    def close(self) -> None:
        """End the zygote, and with it the drivers that still run."""
        self._process.communicate(timeout=30)

    def _ask(self, request: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the zygote ended; its words are on stderr"
        answer: dict[str, Any] = json.loads(line)
        return answer


class ZygoteDriver:
    """A driver on a pool of its own, with the switch that kills it. Use it with `async with`.

    Records and facts lie in a folder below /run, which is tmpfs as in production. With `by_command` the
    records are changed by a stand-in for `kata-runtime`.
    """

    def __init__(
        self,
        zygote: Zygote,
        scratch: Path,
        *,
        pool: dict[str, Any] | None = None,
        by_command: bool = False,
        **settings: object,
    ) -> None:
        self._zygote = zygote
        self.scratch = scratch
        self.run = Path(tempfile.mkdtemp(prefix="katacsi-test-", dir="/run"))
        # sun_path holds 107 bytes; the scratch folder may have a long name.
        self.socket = self.run / "csi.sock"
        self.records = self.run / "records"
        self.facts = self.run / "facts"
        self.pool = scratch / "pool"
        self.pods = scratch / "pods"
        self.staging = scratch / "staging"
        self.log = scratch / "driver.log"
        self._config = scratch / "katacsi.yaml"
        self._switch_file = scratch / "switch"
        self._steps_file = scratch / "steps"
        for folder in (self.pool, self.pods, self.staging):
            folder.mkdir(exist_ok=True)
        self._kata_runtime = scratch / "kata-runtime"
        if by_command:
            kata_runtime_command.install(scratch, self.records, pauses=COMMAND_PAUSES_S)
            settings["direct_volume"] = {"handover": "kata-runtime", "kata_runtime": str(self._kata_runtime)}
        self._config.write_text(
            yaml.safe_dump(
                {
                    "driver_name": "test.katacsi.io",
                    "direct_volume_root": str(self.records),
                    "state_directory": str(self.facts),
                    "log": {"format": "json", "level": "info"},
                    "pools": {
                        "default": {"backend": "loopfile", "directory": str(self.pool), **(pool or {})}
                    },
                    **settings,
                }
            )
        )
        self._switch_file.write_bytes(bytes(crash_launcher.SWITCH.size))
        with self._switch_file.open("r+b") as opened:
            self._switch = mmap.mmap(opened.fileno(), crash_launcher.SWITCH.size)
        self.pid = 0
        self.client: Client | None = None

    # -- the process -----------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Start the driver and return at once."""
        assert not self.pid, "it runs"
        self.pid = self._zygote.start(
            config=str(self._config),
            socket=str(self.socket),
            switch=str(self._switch_file),
            steps=str(self._steps_file),
            log=str(self.log),
            node=NODE,
        )

    async def start(self) -> Client:
        """Start the driver, wait until it answers, and give a client."""
        if not await self.tried_to_start():
            raise AssertionError(f"the driver did not start:\n{self.tail()}")
        assert self.client is not None
        return self.client

    async def tried_to_start(self) -> bool:
        """Start the driver; say whether it came so far as to answer, or died before."""
        self.spawn()
        end = time.monotonic() + _START_S
        while not self._listens():
            if not self.alive or time.monotonic() > end:
                return False
            await asyncio.sleep(0.004)
        self.client = Client(self.socket)
        return True

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(os.fspath(self.socket)) == 0

    @property
    def alive(self) -> bool:
        """Whether the process runs (a dead one stays a zombie until `reap`)."""
        state = Path(f"/proc/{self.pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        return state not in "ZX"

    def reap(self) -> int:
        """Wait for the end of the process and give its exit status."""
        if self.client is not None:
            self.client._channel.close()
            self.client = None
        status = self._zygote.wait(self.pid)
        self.pid = 0
        return status

    def kill(self) -> None:
        """End it as a power switch would."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.reap() == -signal.SIGKILL

    async def stop(self) -> None:
        """End it as an operator would; it has to end in order."""
        os.kill(self.pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while self.alive and time.monotonic() < end:  # noqa: ASYNC110 -- there is no event to wait for
            await asyncio.sleep(0.005)
        assert self.reap() == 0, self.tail()

    async def restart(self) -> Client:
        """Kill it and start it anew, with nothing in memory."""
        if self.pid:
            self.kill()
        return await self.start()

    async def command_ended(self) -> None:
        """Wait until no `kata-runtime` of it runs any more."""
        word = os.fsencode(self._kata_runtime)
        while any(word in words for words in _words_of_all()):  # noqa: ASYNC110 -- there is no event
            await asyncio.sleep(0.005)

    def tail(self, lines: int = 60) -> str:
        """Give the end of its log."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    # -- the switch ------------------------------------------------------------------------------------

    def count(self) -> None:
        """From now on, list the steps."""
        self._steps_file.unlink(missing_ok=True)
        crash_launcher.SWITCH.pack_into(self._switch, 0, 1, 0, 0, 0, b"", 0)

    def arm(self, step: str, occurrence: int, when: int, delay_us: int = 0) -> None:
        """From now on, count the steps, and die at this one."""
        crash_launcher.SWITCH.pack_into(self._switch, 0, 1, occurrence, when, 0, step.encode(), delay_us)

    def disarm(self) -> None:
        """Count no more."""
        crash_launcher.SWITCH.pack_into(self._switch, 0, 0, 0, 0, 0, b"", 0)

    def counted(self) -> list[str]:
        """Count no more, and give the names of the steps that were counted."""
        self.disarm()
        return self._steps_file.read_text().split("\n")[:-1] if self._steps_file.exists() else []

    # -- around it -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.disarm()
            if error is not None:
                error.add_note(self.tail(200))
            if self.pid and error is None:
                await self.stop()
        finally:
            if self.pid:
                self.kill()
            leaks.undo(leaks.leaks_below(self.run))
            shutil.rmtree(self.run)


def _words_of_all() -> Iterator[list[bytes]]:
    """Give the words with which each process was started."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            yield (process / "cmdline").read_bytes().split(b"\0")
