"""The story: one volume from creation to deletion, as the kubelet and its helpers would call.

Each chapter proves something, and fails with what was seen instead; the last line repeats only what was
proven.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from katacsi import __version__
from katacsi.csi.client import Client, RpcError, csi
from katacsi.demo import witness
from katacsi.demo.guests import GuestFailed, Guests
from katacsi.demo.screen import Row
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.errors import KatacsiError
from katacsi.model import MIB, format_size
from katacsi.testing.leaks import filesystem_of
from katacsi.testing.process import DriverFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from katacsi.demo.guests import Report
    from katacsi.demo.place import Place
    from katacsi.demo.screen import Screen
    from katacsi.testing.kubelet import Volume

_SIZE = 64 * MIB
_GROWN = 128 * MIB
_WRITTEN = 4 * MIB

#: What the lines below speak of.
_TERMS = {
    "record": "what Kata's runtime reads: which device goes to the guest",
    "guard": "an empty read-only mount at the pod's target, so that nothing lands on the node's disk",
    "fact": "what the pool remembers of a volume, so that a crash at any step does no harm",
    "guest": "a process that opens and mounts the device, as a Kata virtual machine would",
}


class StoryEnded(Exception):
    """Something was not as it should be; the message says what was seen."""


class Story:
    """One run of the demo."""

    def __init__(self, place: Place, screen: Screen) -> None:
        self._place = place
        self._screen = screen
        self._guests = Guests(place)
        self._written = secrets.token_bytes(_WRITTEN)
        self._calls = 0
        self._proofs: list[str] = []

    async def play(self) -> None:
        """Play all chapters.

        Raises:
            StoryEnded: something was not as it should be.
        """
        driver = self._place.driver
        self._screen.say(
            f"katacsi {__version__}. Pool: {driver.pool} ({filesystem_of(driver.pool)}); "
            f"records: {driver.records}"
        )
        for term, meaning in _TERMS.items():
            self._screen.say(f"  {term:<7} {meaning}")
        self._screen.head()
        try:
            async with Client(driver.socket) as client:
                volume = self._place.volume("pvc-demo", client, _SIZE)
                restored = self._place.volume("pvc-copy", client, _SIZE)
                await self._handed_over(volume)
                await self._survives_a_kill(volume)
                snapshot = await self._restored(volume, restored)
                await self._grows(volume)
                await self._deleted(volume, restored, snapshot)
        except (
            GuestFailed,
            DriverFailed,
            RpcError,
            KatacsiError,
            OSError,
            TimeoutExpired,
        ) as error:
            raise StoryEnded(str(error)) from error

    def end_guests(self) -> None:
        """End the guests that still run."""
        self._guests.end_all()

    def proven(self, seconds: float, *, everything_gone: bool) -> str:
        """Say in one line what was proven."""
        return (
            f"Proven: {format_size(_WRITTEN)} that a guest wrote through the device were there byte for byte "
            f"{', '.join(self._proofs[:-1])} and {self._proofs[-1]}; {self._calls} calls, {seconds:.1f} s"
            f"{', nothing left behind' if everything_gone else ''}."
        )

    # -- the chapters ----------------------------------------------------------------------------------

    async def _handed_over(self, volume: Volume) -> None:
        self._screen.chapter("A volume, from the pool to the guest")
        await self._start_driver("start")
        await self._rpc("CreateVolume", volume.create)
        await self._rpc("NodeStageVolume", volume.stage)
        await self._rpc("NodePublishVolume", volume.publish)
        self._show_record(volume)
        await self._rpc("NodeGetVolumeStats", volume.stats, answered=_usages)
        report = await self._guest("mount, write, sync", lambda: self._guests.write(volume, self._written))
        self._check_bytes(report, "right after they were written")

    async def _survives_a_kill(self, volume: Volume) -> None:
        self._screen.chapter("The driver is killed while a guest has the volume; the pod comes back")
        await self._guest("mount, stay", lambda: self._guests.hold(volume))
        driver = self._place.driver
        gone = f"the driver, process {driver.pid}, is gone"
        await self._do("demo", "kill -9", lambda: asyncio.to_thread(driver.kill), lambda: [gone])
        await self._start_driver("start again")
        await self._do("guest", "unmount, end", self._guests.let_go)
        await self._down(volume)
        await self._up(volume)
        await self._guest_reads(volume, "after the driver was killed")

    async def _restored(self, volume: Volume, restored: Volume) -> str:
        self._screen.chapter("A snapshot, and a second volume from it")
        # Where the pool's filesystem has no reflinks, a volume that a guest may write is not copied.
        await self._rpc("NodeUnpublishVolume", volume.unpublish)
        answer = await self._rpc("CreateSnapshot", lambda: volume.snapshot("snap-demo"))
        snapshot: str = answer.snapshot.snapshot_id
        await self._rpc("CreateVolume", lambda: restored.create(snapshot_id=snapshot))
        await self._up(restored)
        await self._guest_reads(restored, "in a volume restored from a snapshot")
        await self._down(restored)
        return snapshot

    async def _grows(self, volume: Volume) -> None:
        self._screen.chapter(
            f"{format_size(_SIZE)} are to become {format_size(_GROWN)}: not while a guest has the volume, "
            "but at its next start"
        )
        await self._rpc("NodePublishVolume", volume.publish)
        small = await self._guest("mount, stay", lambda: self._guests.hold(volume))
        await self._expand(volume, expected="FAILED_PRECONDITION")
        await self._do("guest", "unmount, end", self._guests.let_go)
        await self._down(volume)
        await self._up(volume)
        await self._expand(volume)
        large = await self._guest_reads(volume, f"after it grew to {format_size(_GROWN)}")
        if large.filesystem_bytes < small.filesystem_bytes + (_GROWN - _SIZE) // 2:
            raise StoryEnded(
                f"the guest sees a filesystem of {large.filesystem_bytes} bytes after the growth, and of "
                f"{small.filesystem_bytes} before"
            )

    async def _deleted(self, volume: Volume, restored: Volume, snapshot: str) -> None:
        self._screen.chapter("Everything goes")
        await self._down(volume)
        await self._rpc("DeleteSnapshot", lambda: volume.delete_snapshot(snapshot))
        for each in (restored, volume):
            await self._rpc("DeleteVolume", each.delete)
        if left := self._scene().images:
            raise StoryEnded(f"the pool still holds {', '.join(left)}")
        await self._do("demo", "stop the driver", self._stop_driver)

    # -- calls -----------------------------------------------------------------------------------------

    async def _up(self, volume: Volume) -> None:
        await self._rpc("NodeStageVolume", volume.stage)
        await self._rpc("NodePublishVolume", volume.publish)

    async def _down(self, volume: Volume) -> None:
        await self._rpc("NodeUnpublishVolume", volume.unpublish)
        await self._rpc("NodeUnstageVolume", volume.unstage)

    async def _expand(self, volume: Volume, expected: str = "OK") -> None:
        await self._rpc(
            "NodeExpandVolume",
            lambda: volume.expand(_GROWN),
            expected=expected,
            answered=lambda answer: f"answer: {format_size(answer.capacity_bytes)}",
        )

    async def _rpc(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        *,
        expected: str = "OK",
        answered: Callable[[Any], str] | None = None,
    ) -> Any:  # noqa: ANN401  # each call has an answer of its own
        """Call the driver; show the call, its time, and what is different on this machine afterwards."""
        before = self._scene()
        answer, code, message = None, "OK", ""
        who = "kubelet" if name.startswith("Node") else "sidecar"
        with self._screen.working(who, name):
            started = time.monotonic()
            try:
                answer = await call()
            except RpcError as error:
                code, message = error.code, error.message
            ms = (time.monotonic() - started) * 1000
        self._calls += 1
        changed = witness.changes(before, self._scene())
        if code == expected != "OK":
            changed = [f"{code}, as expected: {message}", *changed]
        elif code != "OK":
            changed = [f"{code}: {message}", *changed]
        elif answered is not None:
            changed.append(answered(answer))
        self._screen.row(Row(who, name, ms, changed, refused=code != "OK"))
        if code != expected:
            raise StoryEnded(f"{name} was answered with {code} and not {expected}: {message}")
        return answer

    # -- what is not a call ----------------------------------------------------------------------------

    async def _start_driver(self, what: str) -> None:
        driver = self._place.driver

        async def start() -> None:
            driver.spawn()
            await driver.wait_ready()

        await self._do("demo", what, start, lambda: [f"the driver, process {driver.pid}, answers"])

    async def _stop_driver(self) -> None:
        code = await asyncio.to_thread(self._place.driver.stop)
        if code:
            raise StoryEnded(f"the driver ended with exit code {code}")

    async def _guest_reads(self, volume: Volume, when: str) -> Report:
        report = await self._guest("mount, read", lambda: self._guests.read(volume))
        self._check_bytes(report, when)
        self._proofs.append(when)
        return report

    async def _guest(self, what: str, act: Callable[[], Awaitable[Report]]) -> Report:
        reports: list[Report] = []

        async def run() -> None:
            reports.append(await act())

        await self._do("guest", what, run, lambda: _found(reports[0]))
        return reports[0]

    async def _do(
        self,
        who: str,
        what: str,
        act: Callable[[], Awaitable[object]],
        facts: Callable[[], list[str]] = list,
    ) -> None:
        before = self._scene()
        with self._screen.working(who, what):
            started = time.monotonic()
            await act()
            ms = (time.monotonic() - started) * 1000
        self._screen.row(Row(who, what, ms, [*facts(), *witness.changes(before, self._scene())]))

    def _check_bytes(self, report: Report, when: str) -> None:
        if report.sha256 != hashlib.sha256(self._written).hexdigest():
            raise StoryEnded(f"the bytes are not those that were written, {when}: {report}")

    def _show_record(self, volume: Volume) -> None:
        file = self._place.driver.records / entry_name(str(volume.target)) / RECORD_FILE
        self._screen.say(f"  The record that Kata reads, {file}:")
        self._screen.say(f"  {file.read_text()}")

    def _scene(self) -> witness.Scene:
        return witness.look(self._place)


def _usages(answer: csi.NodeGetVolumeStatsResponse) -> str:
    return f"answer: {', '.join(_usage(usage) for usage in answer.usage)}"


def _usage(usage: csi.VolumeUsage) -> str:
    """Say what the driver told; an unset number is not known, as only the guest could tell it."""
    unit = usage.unit.name.lower() if usage.unit is not None else ""
    total = format_size(usage.total) if unit == "bytes" else f"{usage.total} {unit}"
    return f"{total} in all" + (f", {format_size(usage.used)} used" if usage.used else "")


def _found(report: Report) -> list[str]:
    return [
        f"file of {format_size(report.bytes)}, SHA-256 {report.sha256[:12]}…",
        f"filesystem of {format_size(report.filesystem_bytes)}",
    ]
