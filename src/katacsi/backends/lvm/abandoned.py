"""Devices of volumes whose group is gone: told by what device-mapper has of them, and removed there.

A device that LVM made has the UUIDs of its group and of its LV in its own (`LVM-`, and 32 characters each),
and the names of both in its name. A pool's identity comes from its group's UUID, and the name of an LV from
its volume's: so a device proves itself.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm import names
from katacsi.errors import HostError, VolumeInUse
from katacsi.host import dmrelease

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.host.dmrelease import Named
    from katacsi.model import VolumeId

#: An LV's own device; parts and layers have an LV's UUID, or a suffix, of their own.
_UUID: Final = re.compile(r"LVM-([A-Za-z0-9]{32})[A-Za-z0-9]{32}")
_GROUPING: Final = (6, 4, 4, 4, 4, 4, 6)
#: Parts of a RAID volume, and of one with checksums, below the volume's own device.
_PART: Final = re.compile(r"_r(image|meta)_\d+(_i(orig|meta))?")


def pool_uid(group_uuid: str) -> str:
    """Give a pool's identity, from the UUID of its volume group as LVM writes it, with dashes."""
    return hashlib.sha256(group_uuid.encode()).hexdigest()[:8]


def release(volume_id: VolumeId, remembered: Path | None) -> None:
    """Remove the device of a volume, and its parts, without asking LVM; none is success.

    Raises:
        VolumeInUse: somebody has it open.
        HostError: the device that the node remembers is of the pool's group, but not called as the volume's.
    """
    devices = [device for device in dmrelease.every() if _pool_of(device) == volume_id.pool_uid]
    lv_name = names.lv_name(names.VOLUME, volume_id.name)
    for device in devices:
        if names.lv_of_device(device.name) == lv_name:
            dmrelease.release(device)
            _release_parts(device, devices)
        elif remembered is not None and remembered.name == device.name:
            raise HostError(
                f"volume {volume_id}: was attached as {remembered}, which is not called like its LV any "
                "more, and its volume group is gone: nothing proves that the device is its own. dmsetup "
                "remove it if it is"
            )


def _release_parts(device: Named, devices: list[Named]) -> None:
    """Remove what lies below a volume, as long as anything goes: the upper parts first."""
    left = [
        part
        for part in devices
        if part.name.startswith(device.name) and _PART.fullmatch(part.name.removeprefix(device.name))
    ]
    while left:
        still = [part for part in left if not _released(part)]
        if len(still) == len(left):
            return  # another one's by now; the volume's own device is gone, which is what counts
        left = still


def _released(part: Named) -> bool:
    try:
        dmrelease.release(part)
    except VolumeInUse:
        return False
    return True


def _pool_of(device: Named) -> str:
    found = _UUID.fullmatch(device.uuid)
    if found is None:
        return ""
    text, parts = found[1], []
    for length in _GROUPING:
        parts.append(text[:length])
        text = text[length:]
    return pool_uid("-".join(parts))
