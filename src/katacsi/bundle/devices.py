"""The driver's devices and mounts, as the kernel shows them: those of its pools and marks, and no others."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.host import mounttable
from katacsi.host.offloop import off_loop
from katacsi.model import MalformedId, VolumeId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.bundle.parts import Subject
    from katacsi.host.mounttable import Mount

_BLOCK: Final = Path("/sys/block")
_GUARD: Final = "katacsi:"


@dataclass(frozen=True, slots=True)
class Seen:
    """A device as sysfs shows it; what has no value there is empty.

    Attributes:
        name: the kernel's, such as `loop7` or `dm-3`.
        number: `major:minor`.
        size_bytes: its size.
        read_only: whether it refuses writes.
        backing_file: of a loop device.
        direct_io: of a loop device, whether it goes past the page cache.
        mapped, mapped_uuid: the name and the UUID that device-mapper has for it. (Never its table: that of an
            encryption has the key.)
        suspended: whether device-mapper holds its I/O back.
        holders: devices that lie on it.
    """

    name: str
    number: str
    size_bytes: int
    read_only: bool
    backing_file: str
    direct_io: bool
    mapped: str
    mapped_uuid: str
    suspended: bool
    holders: tuple[str, ...]


async def block_devices(subject: Subject) -> object:
    """Give the loop and device-mapper devices of this driver's volumes, and what lies on them."""
    return [asdict(device) for device in await off_loop(ours, subject)]


async def mounts(subject: Subject) -> object:
    """Give the lines of the mount table that show a volume of this driver's, or its guard."""
    return await off_loop(_mounts, subject)


def ours(subject: Subject) -> list[Seen]:
    """Give the devices of this driver's pools and marks, and those that lie on them."""
    remembered = {Path(name) for mark in subject.marks.all_staged() for name in mark.devices}
    numbers = {number for path in remembered if (number := _number(path))}
    folders = tuple(f"{os.path.realpath(folder)}/" for folder in _values(subject, "directory"))
    groups = tuple(f"{group.replace('-', '--')}-k" for group in _values(subject, "volume_group"))
    every = {device.name: device for device in _devices()}
    found: dict[str, Seen] = {}
    waiting = [
        device
        for device in every.values()
        if device.number in numbers
        or (device.backing_file and device.backing_file.startswith(folders))
        or (device.mapped and device.mapped.startswith(groups))
    ]
    while waiting:
        device = waiting.pop()
        if device.name not in found:
            found[device.name] = device
            waiting += [every[name] for name in device.holders if name in every]
    return sorted(found.values(), key=lambda device: device.name)


def _values(subject: Subject, key: str) -> list[str]:
    """Give what the pools have under a key."""
    return [value for pool in subject.known.pools.values() if isinstance(value := pool.get(key), str)]


def _devices() -> Iterator[Seen]:
    for place in sorted(_BLOCK.iterdir()):
        if not place.name.startswith(("loop", "dm-")) or _text(place / "size") == "0":
            continue
        yield Seen(
            name=place.name,
            number=_text(place / "dev"),
            size_bytes=int(_text(place / "size") or 0) * 512,
            read_only=_text(place / "ro") == "1",
            backing_file=_text(place / "loop/backing_file"),
            direct_io=_text(place / "loop/dio") == "1",
            mapped=_text(place / "dm/name"),
            mapped_uuid=_text(place / "dm/uuid"),
            suspended=_text(place / "dm/suspended") == "1",
            holders=tuple(sorted(path.name for path in (place / "holders").glob("*"))),
        )


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="backslashreplace").rstrip("\n")
    except OSError:
        return ""


def _number(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _mounts(subject: Subject) -> str:
    numbers = {device.number for device in ours(subject)}
    places = {mark.path for mark in subject.marks.all_staged()}
    places |= {mark.path for mark in subject.marks.all_published()}
    lines = [
        _line(mount)
        for mount in mounttable.table()
        if ":".join(map(str, mount.device)) in numbers
        or str(mount.target) in places
        or _is_guard(mount, subject)
    ]
    return "\n".join(lines) + "\n" if lines else "No mount of this driver's.\n"


def _is_guard(mount: Mount, subject: Subject) -> bool:
    try:
        volume_id = VolumeId.parse(mount.source.removeprefix(_GUARD))
    except MalformedId:
        return False
    return volume_id.pool in subject.known.pools


def _line(mount: Mount) -> str:
    number = ":".join(map(str, mount.device))
    return " ".join(
        (
            *(str(mount.id), str(mount.parent_id), number, mount.root, str(mount.target)),
            *(",".join(mount.options), *mount.propagation, "-"),
            *(mount.fs_type, mount.source, ",".join(mount.super_options)),
        )
    )
