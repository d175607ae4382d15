"""Block devices as a backend has to see them: who has one, whose it is, and its bytes zeroed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, VolumeInUse
from katacsi.host import block, deviceid, holders
from katacsi.host.offloop import off_loop
from katacsi.model import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from katacsi.backends.stopping import StopSignal

#: Bytes that one step in a thread zeroes: a stop waits for no more than this.
STEP_BYTES: Final = 64 * MIB


def require_unheld(about: str, device: Path) -> None:
    """Refuse while anybody has a device: a mount, a device stacked on it, a process or a guest; it blocks.

    A virtual machine claims nothing, so an exclusive open alone would not meet it. Who only looks in, such as
    udev, is waited for, half a second in all.

    Args:
        about: whose device it is, such as "volume v1:…"; the message begins with it.
        device: its node.

    Raises:
        VolumeInUse: with who it is.
        HostError: a process cannot be looked into, so nobody can say; or the device is gone.
    """
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise HostError(f"{about}: {device}: {error.strerror}") from error
        found = holders.now(device)
        who = f"held by {found[0]}" if found else "mounted, or claimed by another device"
        raise VolumeInUse(f"{about}: {device} is {who}; unmount it or end that first") from error
    if found := holders.lasting(device):
        raise VolumeInUse(f"{about}: {device} is held by {found[0]}; end that first")


def set_writable(device: Path) -> None:
    """Take off the flag that a pod which had the device read-only may have left on it; it blocks.

    Raises:
        HostError: the device is gone.
    """
    block.set_read_only(device, False)


def size_of(device: Path) -> int:
    """Give a device's size in bytes; it blocks.

    Raises:
        HostError: it is gone, or no block device.
    """
    return block.size_bytes(device)


def identity_of(device: Path) -> str:
    """Give what tells a disk from all others, whatever the kernel calls it after the next boot; it blocks.

    Raises:
        HostError: nothing does; or the device is gone.
    """
    return deviceid.identity(device)


def find_by_identity(identity: str, candidates: Iterable[Path]) -> Path:
    """Give the one of several devices that `identity_of` calls so; it blocks.

    Raises:
        HostError: none does, at the moment.
    """
    tried = []
    for device in candidates:
        try:
            if deviceid.identity(device) == identity:
                return device
        except HostError as error:
            tried.append(error.message)
            continue
        tried.append(f"{device} is another one")
    raise HostError(
        f"there is no disk {identity} ({'; '.join(tried) or 'no disk is there'}); was it taken out?"
    )


async def zero(
    about: str,
    device: Path,
    start: int,
    end: int,
    *,
    stopping: StopSignal,
    noted: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Make the bytes of a device read as zero, durably, by the disk itself where it can.

    Args:
        about: whose device it is and what for, such as "volume v1:…: wiping".
        device: its node; nobody may have it.
        start: the first byte, a multiple of 4096.
        end: the byte behind the last one.
        stopping: the pool's, so that the process can end in the middle.
        noted: told after each step how far it came, so that a later call can `start` there. It has to store
            that durably; a step that is repeated does no harm.

    Raises:
        StillWorking: the process is to end; what is zeroed stays so.
        VolumeInUse: the device is mounted or claimed.
        HostError: the disk refused a byte.
    """
    for offset in range(start, end, STEP_BYTES):
        stopping.check(about)
        length = min(STEP_BYTES, end - offset)
        await off_loop(block.zero_out, device, offset, length)
        if noted is not None:
            await noted(offset + length)
