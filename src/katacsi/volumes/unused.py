"""Proofs that nobody uses a volume: by what holds its devices, by the mount table, by Kata's records.

Marks can be lost and records be removed while a guest lives on, so what holds a device decides. All of it
blocks, so it is for host steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.directvolume import guard
from katacsi.errors import HostError, VolumeInUse
from katacsi.host import block, holders, mount, namespaces, peers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from katacsi.backends.api import Device
    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.model import VolumeId


def require_unheld(volume_id: VolumeId, devices: Sequence[Device]) -> None:
    """Refuse while a process, or a device that is not the volume's own, has one of its devices open.

    A virtual machine opens its disks without claiming them, so an exclusive open would not meet it.

    Raises:
        VolumeInUse: with who it is.
        HostError: a process cannot be looked into, so nobody can say.
    """
    own = {device.path.name for device in devices} | {device.path.resolve().name for device in devices}
    for device in devices:
        for holder in holders.lasting(device.path):
            if holder.pid == 0 and holder.comm in own:
                continue  # the next level of the same volume
            raise VolumeInUse(
                f"volume {volume_id}: its device {device.path} is held by {holder}, so a pod or a virtual "
                "machine that outlived its pod may still write to it. End that process (for a leftover "
                "virtual machine: kill it; its sandbox is gone for the container runtime), then retry"
            )


def require_not_mounted_elsewhere(volume_id: VolumeId, devices: Sequence[Device]) -> None:
    """Refuse while another mount namespace has the filesystem mounted; for a volume that is unmounted here.

    Raises:
        VolumeInUse: with the process and the mount point.
    """
    for device in devices:
        for elsewhere in namespaces.mounted_elsewhere(block.device_number(device.path)):
            raise VolumeInUse(
                f"volume {volume_id}: is still {elsewhere}; end that process, or unmount it there "
                f"(nsenter -t {elsewhere.pid} -m umount {elsewhere.mount_point})"
            )


def require_unpublished(
    writer: DirectVolumeWriter, volume_id: VolumeId, devices: Sequence[Device], stagings: Collection[Path]
) -> None:
    """Refuse while a guard, a record or a mount shows that a pod has the volume; staging mounts may stay.

    Raises:
        VolumeInUse: with the place.
    """
    staged = [entry for path in stagings for entry in mount.at(path)]
    require_no_mount(volume_id, devices, apart_from=staged)
    require_no_record(writer, volume_id, devices)


def require_no_record(writer: DirectVolumeWriter, volume_id: VolumeId, devices: Sequence[Device]) -> None:
    """Refuse while a record promises the volume to a guest.

    Raises:
        VolumeInUse: with the record's target.
    """
    ours = {str(device.path) for device in devices}
    for entry in writer.listing():
        if entry.record is not None and entry.record.device in ours:
            raise VolumeInUse(
                f"volume {volume_id}: a direct-volume record at {entry.target} names its device; unpublish "
                "it first"
            )


def require_no_mount(
    volume_id: VolumeId, devices: Sequence[Device], *, apart_from: Collection[mount.Mount]
) -> None:
    """Refuse while the volume's guard, its filesystem or a device node is mounted, but for these mounts.

    What goes when they are unmounted may stand, too: the kubelet's folder may be seen at a second path.

    Raises:
        VolumeInUse: with the place.
    """
    guard_source = guard.source_of(str(volume_id))
    expected = {entry.id for entry in apart_from}
    for device in devices or (None,):
        number = block.device_number(device.path) if device else None
        for entry in mount.mentioning(guard_source, number, device.path.name if device else ""):
            if entry.id in expected:
                continue
            if entry.source == guard_source or (device is not None and _shows(entry, device.path, number)):
                # Only now: for it the whole table is taken apart.
                expected |= peers.going_with(apart_from)
                if entry.id in expected:
                    continue
                raise VolumeInUse(
                    f"volume {volume_id}: is still mounted at {entry.target}; unpublish it first"
                )


def _shows(entry: mount.Mount, device: Path, number: tuple[int, int] | None) -> bool:
    """Whether a mount shows the device's filesystem, or the device node itself (a raw volume's target)."""
    if entry.device == number:
        return True
    if not entry.root.endswith(f"/{device.name}"):
        return False
    try:
        return block.device_number(entry.target) == number
    except HostError:
        return False
