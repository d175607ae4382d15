"""The story: one volume from creation to deletion, as the kubelet and its helpers would call.

Each chapter proves something, and fails with what was seen instead; the last line repeats only what was
proven.
"""

from __future__ import annotations

import hashlib
import secrets
import subprocess
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from katacsi import __version__
from katacsi.csi.client import Client, RpcError, csi
from katacsi.demo import needs, witness
from katacsi.demo.actors import ActorFailed, Driver, Guests
from katacsi.demo.screen import Row
from katacsi.directvolume.names import RECORD_FILE, entry_name
from katacsi.errors import KatacsiError
from katacsi.model import MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from katacsi.demo.actors import Report
    from katacsi.demo.place import Place
    from katacsi.demo.screen import Screen

_SIZE = 64 * MIB
_GROWN = 128 * MIB
_WRITTEN = 4 * MIB
_VOLUME = "pvc-demo"
_RESTORED = "pvc-copy"
_SNAPSHOT = "snap-demo"
_CAPABILITY = csi.VolumeCapability(
    mount=csi.VolumeCapabilityMountVolume(fs_type="ext4"),
    access_mode=csi.VolumeCapabilityAccessMode(
        mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_MULTI_WRITER
    ),
)


class StoryEnded(Exception):
    """Something was not as it should be; the message says what was seen."""


class Story:
    """One run of the demo."""

    def __init__(self, place: Place, screen: Screen) -> None:
        self._place = place
        self._screen = screen
        self._driver = Driver(place)
        self._guests = Guests(place)
        self._clients = AsyncExitStack()
        self._client: Client | None = None
        self._written = secrets.token_bytes(_WRITTEN)
        self._calls = 0
        self._proofs: list[str] = []

    async def play(self) -> None:
        """Play all chapters.

        Raises:
            StoryEnded: something was not as it should be.
        """
        place = self._place
        self._screen.say(
            f"katacsi {__version__}. Pool: {place.pool} ({needs.filesystem_of(place.pool)}); "
            f"records: {place.records}"
        )
        self._screen.head()
        try:
            async with self._clients:
                volume = await self._handed_over()
                await self._survives_a_kill(volume)
                restored, snapshot = await self._restored(volume)
                await self._grows(volume)
                await self._deleted(volume, restored, snapshot)
        except (ActorFailed, RpcError, KatacsiError, OSError, subprocess.TimeoutExpired) as error:
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

    async def _handed_over(self) -> str:
        self._screen.chapter("A volume, from the pool to the guest")
        await self._start_driver("start")
        volume = await self._create(_VOLUME)
        await self._stage(_VOLUME, volume)
        await self._publish(_VOLUME, volume)
        self._show_record(_VOLUME)
        await self._stats(_VOLUME, volume)
        target = str(self._place.target(_VOLUME))
        report = await self._guest("mount, write, sync", lambda: self._guests.write(target, self._written))
        self._check_bytes(report, "right after they were written")
        return volume

    async def _survives_a_kill(self, volume: str) -> None:
        self._screen.chapter("The pod goes; the driver is killed; the pod comes back")
        await self._unpublish(_VOLUME, volume)
        await self._unstage(_VOLUME, volume)
        pid = self._driver.pid
        await self._do("demo", "kill -9", self._driver.kill, lambda: [f"the driver, process {pid}, is gone"])
        await self._start_driver("start again")
        await self._stage(_VOLUME, volume)
        await self._publish(_VOLUME, volume)
        await self._guest_reads(_VOLUME, "after the driver was killed")

    async def _restored(self, volume: str) -> tuple[str, str]:
        self._screen.chapter("A snapshot, and a second volume from it")
        # Where the pool's filesystem has no reflinks, a volume that a guest may write is not copied.
        await self._unpublish(_VOLUME, volume)
        answer = await self._rpc(
            "CreateSnapshot",
            lambda client: client.controller.create_snapshot(
                csi.CreateSnapshotRequest(source_volume_id=volume, name=_SNAPSHOT)
            ),
        )
        snapshot: str = answer.snapshot.snapshot_id
        restored = await self._create(_RESTORED, snapshot)
        await self._stage(_RESTORED, restored)
        await self._publish(_RESTORED, restored)
        await self._guest_reads(_RESTORED, "in a volume restored from a snapshot")
        await self._unpublish(_RESTORED, restored)
        await self._unstage(_RESTORED, restored)
        return restored, snapshot

    async def _grows(self, volume: str) -> None:
        self._screen.chapter(
            f"{format_size(_SIZE)} become {format_size(_GROWN)}, while a guest has the volume"
        )
        await self._publish(_VOLUME, volume)
        target = str(self._place.target(_VOLUME))
        small = await self._guest("mount, stay", lambda: self._guests.hold(target))
        await self._expand(volume, expected="FAILED_PRECONDITION")
        await self._do("guest", "unmount, end", self._guests.let_go)
        await self._unpublish(_VOLUME, volume)
        await self._unstage(_VOLUME, volume)
        await self._stage(_VOLUME, volume)
        await self._publish(_VOLUME, volume)
        await self._expand(volume)
        large = await self._guest_reads(_VOLUME, f"after it grew to {format_size(_GROWN)}")
        if large.filesystem_bytes < small.filesystem_bytes + (_GROWN - _SIZE) // 2:
            raise StoryEnded(
                f"the guest sees a filesystem of {large.filesystem_bytes} bytes after the growth, and of "
                f"{small.filesystem_bytes} before"
            )

    async def _deleted(self, volume: str, restored: str, snapshot: str) -> None:
        self._screen.chapter("Everything goes")
        await self._unpublish(_VOLUME, volume)
        await self._unstage(_VOLUME, volume)
        await self._rpc(
            "DeleteSnapshot",
            lambda client: client.controller.delete_snapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshot)),
        )
        for each in (restored, volume):
            await self._delete(each)
        if left := self._scene().images:
            raise StoryEnded(f"the pool still holds {', '.join(left)}")
        await self._do("demo", "stop the driver", self._stop_driver)

    # -- calls -----------------------------------------------------------------------------------------

    async def _create(self, name: str, snapshot: str = "") -> str:
        source = None
        if snapshot:
            source = csi.VolumeContentSource(
                snapshot=csi.VolumeContentSourceSnapshotSource(snapshot_id=snapshot)
            )
        request = csi.CreateVolumeRequest(
            name=name,
            capacity_range=csi.CapacityRange(required_bytes=_SIZE),
            volume_capabilities=[_CAPABILITY],
            parameters={"katacsi.io/direct": "true"},
            volume_content_source=source,
        )
        answer = await self._rpc("CreateVolume", lambda client: client.controller.create_volume(request))
        volume_id: str = answer.volume.volume_id
        return volume_id

    async def _delete(self, volume: str) -> None:
        await self._rpc(
            "DeleteVolume",
            lambda client: client.controller.delete_volume(csi.DeleteVolumeRequest(volume_id=volume)),
        )

    async def _stage(self, name: str, volume: str) -> None:
        request = csi.NodeStageVolumeRequest(
            volume_id=volume,
            staging_target_path=str(self._place.staging(name)),
            volume_capability=_CAPABILITY,
            volume_context={"katacsi.io/direct": "true"},
        )
        await self._rpc("NodeStageVolume", lambda client: client.node.node_stage_volume(request))

    async def _unstage(self, name: str, volume: str) -> None:
        request = csi.NodeUnstageVolumeRequest(
            volume_id=volume, staging_target_path=str(self._place.staging(name))
        )
        await self._rpc("NodeUnstageVolume", lambda client: client.node.node_unstage_volume(request))

    async def _publish(self, name: str, volume: str) -> None:
        request = csi.NodePublishVolumeRequest(
            volume_id=volume,
            staging_target_path=str(self._place.staging(name)),
            target_path=str(self._place.target(name)),
            volume_capability=_CAPABILITY,
            volume_context={"katacsi.io/direct": "true"},
        )
        await self._rpc("NodePublishVolume", lambda client: client.node.node_publish_volume(request))

    async def _unpublish(self, name: str, volume: str) -> None:
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(self._place.target(name)))
        await self._rpc("NodeUnpublishVolume", lambda client: client.node.node_unpublish_volume(request))

    async def _stats(self, name: str, volume: str) -> None:
        request = csi.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=str(self._place.target(name)))
        await self._rpc(
            "NodeGetVolumeStats",
            lambda client: client.node.node_get_volume_stats(request),
            answered=lambda answer: f"answer: {', '.join(_usage(usage) for usage in answer.usage)}",
        )

    async def _expand(self, volume: str, expected: str = "OK") -> None:
        request = csi.NodeExpandVolumeRequest(
            volume_id=volume,
            volume_path=str(self._place.target(_VOLUME)),
            staging_target_path=str(self._place.staging(_VOLUME)),
            capacity_range=csi.CapacityRange(required_bytes=_GROWN),
            volume_capability=_CAPABILITY,
        )
        await self._rpc(
            "NodeExpandVolume",
            lambda client: client.node.node_expand_volume(request),
            expected=expected,
            answered=lambda answer: f"answer: {format_size(answer.capacity_bytes)}",
        )

    async def _rpc(
        self,
        name: str,
        call: Callable[[Client], Awaitable[Any]],
        *,
        expected: str = "OK",
        answered: Callable[[Any], str] | None = None,
    ) -> Any:  # noqa: ANN401  # each call has an answer of its own
        """Call the driver; show the call, its time, and what is different on this machine afterwards."""
        assert self._client is not None, "the driver was started"
        before = self._scene()
        answer, code, message = None, "OK", ""
        who = "kubelet" if name.startswith("Node") else "sidecar"
        with self._screen.working(who, name):
            started = time.monotonic()
            try:
                answer = await call(self._client)
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
        await self._do("demo", what, self._driver.start, self._answers)
        self._client = await self._clients.enter_async_context(Client(self._place.socket))

    def _answers(self) -> list[str]:
        return [f"the driver, process {self._driver.pid}, answers"]

    async def _stop_driver(self) -> None:
        code = await self._driver.stop()
        if code:
            raise StoryEnded(f"the driver ended with exit code {code}")

    async def _guest_reads(self, name: str, when: str) -> Report:
        target = str(self._place.target(name))
        report = await self._guest("mount, read", lambda: self._guests.read(target))
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
        act: Callable[[], Awaitable[None]],
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

    def _show_record(self, name: str) -> None:
        file: Path = self._place.records / entry_name(str(self._place.target(name))) / RECORD_FILE
        self._screen.say(f"  The record that Kata reads, {file}:")
        self._screen.say(f"  {file.read_text()}")

    def _scene(self) -> witness.Scene:
        return witness.look(self._place)


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
