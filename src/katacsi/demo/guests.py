"""The guests that take part, each a process of its own (see `guest`)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from katacsi.demo.place import Place
    from katacsi.testing.kubelet import Volume

#: -P: whatever lies in the current directory is not imported.
_PYTHON = (sys.executable, "-P", "-m")
_GUEST_S = 60.0


class GuestFailed(Exception):
    """A guest did not do its part; the message says what, and why."""


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
        self._holding: subprocess.Popen[bytes] | None = None

    async def write(self, volume: Volume, data: bytes) -> Report:
        """Have a guest write a file and sync it."""
        return await self._do(volume, "write", data)

    async def read(self, volume: Volume) -> Report:
        """Have a guest read the file."""
        return await self._do(volume, "read", b"")

    async def hold(self, volume: Volume) -> Report:
        """Have a guest mount the volume and stay."""
        self._holding = process = self._start(volume, "hold")
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        if not line:
            _, said = await asyncio.to_thread(process.communicate, b"", _GUEST_S)
            raise GuestFailed(f"the guest could not mount the volume: {said.decode().strip()}")
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
            raise GuestFailed(f"the guest could not unmount the volume: {said.decode().strip()}")

    def end_all(self) -> None:
        """End every guest at once, as a power cut would; whoever waits for one wakes up."""
        for process in self._place.guests:
            process.kill()

    async def _do(self, volume: Volume, action: str, data: bytes) -> Report:
        process = self._start(volume, action)
        answer, said = await asyncio.to_thread(process.communicate, data, _GUEST_S)
        if process.returncode:
            raise GuestFailed(f"the guest could not {action}: {said.decode().strip()}")
        return _report(answer)

    def _start(self, volume: Volume, action: str) -> subprocess.Popen[bytes]:
        place = self._place
        process = subprocess.Popen(
            [
                *_PYTHON,
                "katacsi.demo.guest",
                *(str(place.driver.records), str(volume.target), str(place.guest_mount), action),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        place.guests.append(process)
        return process


def _report(line: bytes) -> Report:
    return Report(**json.loads(line))
