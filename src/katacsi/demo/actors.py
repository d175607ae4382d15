"""The processes that take part: the driver, as a node runs it, and guests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.csi.client import Client, RpcError

if TYPE_CHECKING:
    from katacsi.demo.place import Place

#: -P: whatever lies in the current directory is not imported.
_PYTHON = (sys.executable, "-P", "-m")
_START_S = 20.0
_GUEST_S = 60.0


class ActorFailed(Exception):
    """A process did not do its part; the message says which, and why."""


class Driver:
    """`katacsi serve`, in a process of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the driver was started"
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait for its first answer to Probe.

        Raises:
            ActorFailed: it ended, or did not become ready.
        """
        self._process = self._spawn()
        await self._ready(self._process)

    def _spawn(self) -> subprocess.Popen[bytes]:
        place = self._place
        command = [*_PYTHON, "katacsi", "serve", "--config", str(place.config)]
        command += ["--endpoint", f"unix://{place.socket}", "--node-id", "demo-node"]
        # The user's own settings are for the user's driver.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KATACSI_")}
        with place.log.open("ab") as log:
            # A session of its own: Ctrl-C is for the demo, which then ends the driver in its turn.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        place.processes.append(process)
        return process

    async def _ready(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_S
        async with Client(self._place.socket) as client:
            while process.poll() is None:
                try:
                    await client.wait_ready(0)
                except RpcError as error:
                    if time.monotonic() > end:
                        raise ActorFailed(f"the driver does not become ready: {error}") from error
                    await asyncio.sleep(0.005)
                else:
                    return
        raise ActorFailed(f"the driver ended with exit code {process.returncode} while it started")

    async def kill(self) -> None:
        """End it as a crash does, with SIGKILL."""
        assert self._process is not None, "the driver was started"
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def stop(self) -> int:
        """End it by SIGTERM; give its exit code."""
        assert self._process is not None, "the driver was started"
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, _START_S)


@dataclass(frozen=True)
class Report:
    """What a guest found on the volume."""

    bytes: int
    sha256: str
    filesystem_bytes: int


class Guests:
    """Guests of one demo."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._all: list[subprocess.Popen[bytes]] = []
        self._holding: subprocess.Popen[bytes] | None = None

    async def write(self, target: str, data: bytes) -> Report:
        """Have a guest write a file and sync it."""
        return await self._do(target, "write", data)

    async def read(self, target: str) -> Report:
        """Have a guest read the file."""
        return await self._do(target, "read", b"")

    async def hold(self, target: str) -> Report:
        """Have a guest mount the volume and stay."""
        self._holding = process = self._start(target, "hold")
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            _, said = await asyncio.to_thread(process.communicate, b"", _GUEST_S)
            raise ActorFailed(f"the guest could not mount the volume: {said.decode().strip()}")
        return _report(line)

    @property
    def holder(self) -> int:
        """The process id of the guest that stays."""
        assert self._holding is not None, "a guest holds the volume"
        return self._holding.pid

    async def let_go(self) -> None:
        """Have the guest that stays unmount and end."""
        assert self._holding is not None, "a guest holds the volume"
        process, self._holding = self._holding, None
        _, said = await asyncio.to_thread(process.communicate, b"", _GUEST_S)
        if process.returncode:
            raise ActorFailed(f"the guest could not unmount the volume: {said.decode().strip()}")

    def end_all(self) -> None:
        """End every guest at once, as a power cut would; whoever waits for one wakes up."""
        for process in self._all:
            process.kill()

    async def _do(self, target: str, action: str, data: bytes) -> Report:
        process = self._start(target, action)
        answer, said = await asyncio.to_thread(process.communicate, data, _GUEST_S)
        if process.returncode:
            raise ActorFailed(f"the guest could not {action}: {said.decode().strip()}")
        return _report(answer)

    def _start(self, target: str, action: str) -> subprocess.Popen[bytes]:
        place = self._place
        process = subprocess.Popen(
            [
                *_PYTHON,
                "katacsi.demo.guest",
                *(str(place.records), target, str(place.guest_mount), action),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._all.append(process)
        place.processes.append(process)
        return process


def _report(line: bytes) -> Report:
    return Report(**json.loads(line))
