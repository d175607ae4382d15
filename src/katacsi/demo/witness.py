"""What a call changed on this machine: looked up in the kernel and in the files, before and after it.

Nothing here asks the driver. A line that the demo shows is something that is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.backends.api import Facts
from katacsi.backends.loopfile.records import SnapshotRecord, VolumeRecord
from katacsi.directvolume.names import RECORD_FILE, decoded
from katacsi.errors import HostError
from katacsi.host import loopdevices, mounttable, superblock
from katacsi.model import format_size
from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from katacsi.demo.place import Place
    from katacsi.host.superblock import Superblock

_GUARD = "katacsi:"


@dataclass(frozen=True)
class Image:
    """The file with a volume's or a snapshot's bytes, and what is said and done about it.

    Attributes:
        size: its length in bytes.
        on_disk: how many of them have a place on the disk.
        device: the loop device that has it.
        device_size: the size that device shows.
        traits: how that device works.
        filesystem: what is on it.
        guest_written: the stored fact of that name.
        pending_size: the stored fact of that name.
    """

    size: int
    on_disk: int
    device: str = ""
    device_size: int = 0
    traits: str = ""
    filesystem: Superblock | None = None
    guest_written: bool = False
    pending_size: int = 0


@dataclass(frozen=True)
class Scene:
    """What is there at one moment: images, guards by target, records by target."""

    images: Mapping[str, Image]
    guards: Mapping[str, str]
    records: Mapping[str, str]


def look(place: Place) -> Scene:
    """Look at the pool's files, the loop devices, the mounts and the records."""
    files = leaks.loops_below(place.driver.pool)
    devices = {files[device.path]: device for device in loopdevices.devices() if device.path in files}
    images = {}
    for file in sorted(place.driver.pool.glob("*/*/disk.img")):
        if not file.parent.name.startswith("."):
            images[f"{file.parts[-3]}/{file.parts[-2]}"] = _image(file, devices.get(file))
    guards = {
        str(entry.target): entry.source
        for entry in mounttable.table()
        if entry.source.startswith(_GUARD) and entry.target.is_relative_to(place.run) and entry.read_only
    }
    records = {
        decoded(file.parent.name) or file.parent.name: file.read_text()
        for file in place.driver.records.glob(f"*/{RECORD_FILE}")
    }
    return Scene(images, guards, records)


def changes(before: Scene, after: Scene) -> list[str]:
    """Say what differs between two moments, in the order in which a driver does such things."""
    return [
        *_image_changes(before.images, after.images),
        *(f"guard mounted, read-only: {_short(source)}" for source in _new(before.guards, after.guards)),
        *("record written" for _ in _new(before.records, after.records)),
        *("record removed" for _ in _new(after.records, before.records)),
        *("guard unmounted" for _ in _new(after.guards, before.guards)),
    ]


def _image(file: Path, device: loopdevices.LoopDevice | None) -> Image:
    status = file.stat()
    facts = _facts(file.parent)
    readable = device.path if device else file
    try:
        filesystem = superblock.read(readable)
    except HostError:  # it is being written
        filesystem = None
    return Image(
        size=status.st_size,
        on_disk=status.st_blocks * 512,
        device=str(device.path) if device else "",
        device_size=device.size_bytes if device else 0,
        traits=_traits(device) if device else "",
        filesystem=filesystem,
        guest_written=facts.guest_written,
        pending_size=facts.pending_size,
    )


def _facts(folder: Path) -> Facts:
    for name, model in (("volume.json", VolumeRecord), ("snapshot.json", SnapshotRecord)):
        try:
            return model.decode((folder / name).read_bytes()).facts
        except (OSError, ValueError):
            continue
    return Facts()


def _traits(device: loopdevices.LoopDevice) -> str:
    sectors = format_size(device.sector_size).removesuffix("i").removesuffix(" bytes")
    return f"{'direct I/O' if device.direct_io else 'buffered'}, {sectors} sectors"


def _image_changes(before: Mapping[str, Image], after: Mapping[str, Image]) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if new is None:
            assert old is not None
            if old.device:
                yield f"{old.device} detached"
            yield f"{name} gone, with its {format_size(old.on_disk)}"
            continue
        if old is None:
            yield f"{name} made: {format_size(new.size)}, {format_size(new.on_disk)} used"
            old = Image(new.size, new.on_disk)
        yield from _image_change(name, old, new)


def _image_change(name: str, old: Image, new: Image) -> Iterator[str]:
    if new.size != old.size:
        yield f"{name} grew from {format_size(old.size)} to {format_size(new.size)}"
    if new.device != old.device:
        yield f"{new.device} attached: {new.traits}" if new.device else f"{old.device} detached"
    elif new.device_size != old.device_size:
        yield f"{new.device} shows {format_size(new.device_size)}"
    yield from _filesystem_change(old.filesystem, new.filesystem)
    if new.guest_written and not old.guest_written:
        yield "fact stored: guest-written, no host mount"
    if new.pending_size != old.pending_size:
        yield "fact stored: filesystem has to grow" if new.pending_size else "fact cleared: it has grown"


def _filesystem_change(old: Superblock | None, new: Superblock | None) -> Iterator[str]:
    if new is None:
        return
    if old is None or old.uuid != new.uuid:
        yield f"{new.fs_type} of {format_size(new.size_bytes)}, UUID {new.uuid[:8]}…"
    elif old.size_bytes != new.size_bytes:
        yield f"{new.fs_type} grew from {format_size(old.size_bytes)} to {format_size(new.size_bytes)}"


def _new(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [value for key, value in after.items() if before.get(key) != value]


def _short(source: str) -> str:
    """Leave the middle out of a guard's source: beside the volume's name it says which pool, and is long."""
    return f"{_GUARD}…:{source.rpartition(':')[2]}"
