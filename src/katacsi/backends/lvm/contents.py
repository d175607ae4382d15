"""The bytes of LVs: zeroed before anybody sees them, copied, and wiped when they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm.settings import Wipe, Zero
from katacsi.backends.tools.devices import STEP_BYTES, zero
from katacsi.host import block, command, devicebytes
from katacsi.host.offloop import off_loop
from katacsi.model import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.backends.api import Device
    from katacsi.backends.lvm.devices import LvmDevices
    from katacsi.backends.lvm.objects import Entry
    from katacsi.backends.lvm.settings import LvmSettings
    from katacsi.backends.stopping import StopSignal

#: Bytes that one step in a thread copies or discards.
STEP: Final = STEP_BYTES
_EDGE: Final = MIB


class LvmContents:
    """What is written to a pool's LVs, by the pool itself."""

    def __init__(self, settings: LvmSettings, devices: LvmDevices, stopping: StopSignal) -> None:
        self._settings = settings
        self._devices = devices
        self._stopping = stopping

    async def zero(self, device: Device, start: int = 0) -> None:
        """Zero a new device from here on, or as much of it as the pool is told to."""
        end = device.size_bytes
        if self._settings.zero is Zero.EDGES:
            for offset in {start, max(start, end - _EDGE)}:
                await off_loop(block.zero_out, device.path, offset, min(_EDGE, end - offset))
            return
        await zero(f"{device.path}: zeroing", device.path, start, end, stopping=self._stopping)

    async def copy(self, source: Device, target: Device, length: int, *, blank: bool) -> None:
        """Copy the first bytes of a device; to a blank one, zeros need not be copied."""
        for offset in range(0, length, STEP):
            self._stopping.check(f"{target.path}: copying")
            await off_loop(
                devicebytes.copy,
                source.path,
                target.path,
                offset,
                min(STEP, length - offset),
                skip_zeros=blank,
            )

    async def wipe(self, entry: Entry) -> None:
        """Do to the bytes of a dying LV what its volume was promised."""
        if entry.record.wipe is Wipe.NONE:
            return
        device = await self._devices.activate(entry.lv)
        if entry.record.wipe is Wipe.SIGNATURES:
            wipe: list[str | Path] = ["wipefs", "--all", "--quiet", device.path]
            await off_loop(command.run, wipe, timeout_s=self._settings.command_timeout)
        elif entry.record.wipe is Wipe.DISCARD and await _discarded(device):
            pass
        elif not entry.lv.pool:
            # A disk that cannot discard any more still forgets what is overwritten.
            about = f"{device.path}: wiping"
            await zero(about, device.path, 0, device.size_bytes, stopping=self._stopping)
        await self._devices.deactivate(entry.lv)


async def _discarded(device: Device) -> bool:
    for offset in range(0, device.size_bytes, STEP):
        length = min(STEP, device.size_bytes - offset)
        if not await off_loop(devicebytes.discard, device.path, offset, length):
            return False
    return True
