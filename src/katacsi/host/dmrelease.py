"""Devices of device-mapper whose owner cannot be asked any more: listed, and removed by the kernel itself.

LVM removes no device of a group that it does not find. The kernel does, and it knows each device by the UUID
that LVM gave it. Source of the numbers: <linux/dm-ioctl.h>.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError, VolumeInUse
from katacsi.host import _linux, devicemapper, holders

if TYPE_CHECKING:
    from collections.abc import Iterator

#: _IOWR(0xfd, 2, struct dm_ioctl), and 4.
_DM_LIST_DEVICES: Final = 0xC138FD02
_DM_DEV_REMOVE: Final = 0xC138FD04
#: `struct dm_name_list` before the name: dev, next.
_NAME: Final = struct.Struct("=QI")
_MAPPER: Final = Path("/dev/mapper")
#: udev looks into a device for a moment after it was written.
_PAUSES_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
#: How long udev may take to remove a node, where it runs.
_NODE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Named:
    """A device of device-mapper, by the name and the UUID that its maker gave it."""

    name: str
    uuid: str


def every() -> list[Named]:
    """List the devices of device-mapper; none where the kernel has no device-mapper.

    Raises:
        HostError: device-mapper cannot be asked.
    """
    if not devicemapper.CONTROL.exists():
        return []
    with _control() as control:
        try:
            found = [(name, devicemapper.uuid_of(control, name)) for name in _names(control)]
        except OSError as error:
            raise _linux.failure("list the devices of device-mapper", error) from error
    return [Named(name, uuid) for name, uuid in found if uuid is not None]


def release(device: Named) -> None:
    """Remove a device, proven; absent is success.

    Raises:
        VolumeInUse: somebody has it open.
    """
    for pause_s in (*_PAUSES_S, None):
        mapped = devicemapper.find(device.uuid)
        if mapped is None or _removed(device):
            if mapped is not None:
                _forget_node(mapped)
            return
        if pause_s is not None:
            time.sleep(pause_s)
    path = _MAPPER / device.name
    held: list[holders.Holder] = []
    with contextlib.suppress(HostError):
        held = holders.now(devicemapper.node(mapped, 0.0)) if mapped is not None else []
    who = ", ".join(map(str, held)) or "a mount, or a process in another PID namespace"
    raise VolumeInUse(f"{path} is held by {who}; end what uses it (`fuser -v {path}`)")


def _removed(device: Named) -> bool:
    """Ask for a device to be removed; False: somebody has it open."""
    with _control() as control:
        try:
            fcntl.ioctl(control, _DM_DEV_REMOVE, devicemapper.request(uuid=device.uuid))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENXIO:  # gone meanwhile
                raise _linux.failure(f"remove {device.name}", error) from error
    return True


def _forget_node(mapped: devicemapper.Mapped) -> None:
    """Remove the node of a device that is gone, where no udev does."""
    node = _MAPPER / mapped.name
    deadline = time.monotonic() + _NODE_S
    while os.path.lexists(node) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        if os.path.lexists(node) and devicemapper.is_node(node, mapped.number):
            node.unlink()


@contextlib.contextmanager
def _control() -> Iterator[int]:
    control = devicemapper.opened()
    try:
        yield control
    finally:
        os.close(control)


def _names(control: int) -> list[str]:
    buffer = devicemapper.asked(control, _DM_LIST_DEVICES)
    start = devicemapper.data_start(buffer)
    names: list[str] = []
    position = start
    while True:
        device, following = _NAME.unpack_from(buffer, position)
        if not device:
            return names
        names.append(bytes(buffer[position + _NAME.size :]).split(b"\0", 1)[0].decode(errors="replace"))
        if not following:
            return names
        position += following
