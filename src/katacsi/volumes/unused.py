"""What the kernel and Kata's root show of a volume whose facts of this boot are lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.directvolume import guard
from katacsi.errors import HostError, VolumeInUse
from katacsi.host import block, mount
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Container

    from katacsi.backends.api import Device
    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.volumes.context import Context


async def require_unused(context: Context, volume_id: str, device: Device) -> None:
    """Refuse while a guard, a record or a mount shows that a pod has the volume; our staging mount may stay.

    Raises:
        VolumeInUse: with the place.
    """
    stagings = [Path(staged.path) for staged in context.marks.stagings_of(volume_id)]
    await off_loop(_require_no_target, volume_id, device.path, stagings)
    await require_no_record(context.writer, volume_id, device)


async def require_no_record(writer: DirectVolumeWriter, volume_id: str, device: Device) -> None:
    """Refuse while a record promises the device to a guest.

    Raises:
        VolumeInUse: with the record's target.
    """
    for entry in await writer.listing():
        if entry.record is not None and entry.record.device == str(device.path):
            raise VolumeInUse(
                f"volume {volume_id}: a direct-volume record at {entry.target} names its device; "
                "unpublish it first"
            )


def require_no_mount(volume_id: str, device: Path | None, *, apart_from: Container[int]) -> None:
    """Refuse while the volume's guard, its filesystem or its device node is mounted, but for these mounts.

    Raises:
        VolumeInUse: with the place.
    """
    guard_source = guard.source_of(volume_id)
    number = block.device_number(device) if device else None
    for entry in mount.mentioning(guard_source, number, device.name if device else ""):
        if entry.id in apart_from:
            continue
        if entry.source == guard_source or (device is not None and _shows(entry, device, number)):
            raise VolumeInUse(f"volume {volume_id}: is still mounted at {entry.target}; unpublish it first")


def _require_no_target(volume_id: str, device: Path, stagings: list[Path]) -> None:
    staged = {entry.id for path in stagings for entry in mount.at(path)}
    require_no_mount(volume_id, device, apart_from=staged)


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
