"""What has to hold at every moment of a volume's life, so also where a driver was stopped between two steps.

A comparison of end states does not see in which order a call came to its end. This looks at the kernel's
tables and the pool's files, not at the driver.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.backends.loopfile import factfile
from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from support.zygote import ZygoteDriver

#: Tools that change a filesystem that is mounted nowhere: no guest may be promised the device meanwhile.
_WRITING = ("mkfs.", "resize2fs", "e2fsck", "tune2fs", "debugfs", "xfs_admin", "xfs_repair")
#: A freeze begins: the function of the driver, and FIFREEZE.
_FREEZING = ("mount.freeze", "ioctl 0xc0045877")
#: mkfs writes its first bytes into the first of these.
_BEGINNING = 1 << 20


@dataclass(frozen=True)
class _Volume:
    name: str
    facts: dict[str, Any]
    device: Path | None
    disk: Path

    def shows_content(self) -> bool:
        with (self.device or self.disk).open("rb") as opened:
            return any(opened.read(_BEGINNING))


def broken(driver: ZygoteDriver, step: str) -> list[str]:
    """Say which promises do not hold where a driver was stopped before, in or after a step; nothing is right.

    A record is there only with the guard at its target, the mark of that publish, a finished filesystem, the
    device attached and mounted nowhere, and, where a guest may write, with that fact stored. A raw device is
    bound writable only with its fact stored. A device has content only once its facts say that mkfs may have
    begun. What is mounted, promised or held keeps its file. A freeze has its mark first, a growth in
    userspace its fact.
    """
    loops = leaks.loops_below(driver.scratch)
    # Records first: a tool that outlives the driver may still take one away, and no tool makes a guard.
    records = {_path(file.parent): _record(file) for file in driver.records.glob("*/mountInfo.json")}
    # Elsewhere the tests mount, as the kernel of a guest does.
    ours = (driver.pods, driver.staging)
    mounts = [mount for mount in leaks.mounts() if any(mount.target.is_relative_to(root) for root in ours)]
    volumes = [_volume(file.parent, loops) for file in driver.pool.glob("volumes/[!.]*/volume.json")]
    by_device = {str(volume.device): volume for volume in volumes if volume.device}
    return [
        *(text for at, record in records.items() for text in _of_record(at, record, mounts, by_device)),
        *(text for volume in volumes for text in _of_content(volume, step)),
        *(text for mount in mounts for text in _of_mount(mount, by_device)),
        *_of_marks(driver.facts, {*records, *(m.target for m in mounts if driver.pods in m.target.parents)}),
        *_of_step(driver.facts, step, records),
        *_of_growth(step, volumes),
        *(f"{device} is held, and lost its file" for device in _held() if not _has_file(device)),
    ]


def _of_record(
    target: Path, record: dict[str, Any], mounts: list[leaks.Mount], by_device: dict[str, _Volume]
) -> Iterable[str]:
    here = [mount.source for mount in mounts if mount.target == target]
    # A pod whose folder went starts no container any more; its record is left for the next start.
    if target.parent.exists() and not (here and here[-1].startswith("katacsi:")):
        yield f"a record at {target}, and no guard but {here}"
    if not record:
        return  # a `kata-runtime` was killed while it wrote; no runtime takes it
    volume = by_device.get(record["device"])
    if volume is None:
        yield f"a record at {target} names {record['device']}, which has no volume's file"
        return
    if here and not here[-1].endswith(f":{volume.name}"):
        yield f"a record at {target} names the device of {volume.name}, under {here[-1]}"
    if volume.facts["format"] != "formatted":
        yield f"a record at {target}, and {volume.name} is {volume.facts['format']}"
    if not volume.facts["guest_written"] and "ro" not in record.get("options", ()):
        yield f"a writable record at {target}, and no fact that a guest may have written {volume.name}"
    if mounted := [mount.target for mount in mounts if mount.source == record["device"]]:
        yield f"a record at {target}, and the device of {volume.name} is mounted at {mounted[0]}"


def _of_content(volume: _Volume, step: str) -> Iterable[str]:
    if volume.facts["format"] != "unformatted" or volume.facts["raw_written"]:
        return
    if step.startswith("start of mkfs"):
        yield f"{step}, and the facts of {volume.name} do not say so"
    elif volume.shows_content():
        yield f"{volume.name} has content, and its facts say that nothing was written"


def _of_mount(mount: leaks.Mount, by_device: dict[str, _Volume]) -> Iterable[str]:
    raw = mount.filesystem == "devtmpfs"
    source = f"/dev/loop{os.minor(mount.target.stat().st_rdev)}" if raw else mount.source
    if not source.startswith("/dev/loop"):
        return
    volume = by_device.get(source)
    if volume is None:
        yield f"{source} is mounted at {mount.target}, and has no volume's file"
        return
    block = Path("/sys/block", Path(source).name)
    if (block / "loop/autoclear").read_text() != "0\n":
        yield f"{source} of {volume.name} is mounted at {mount.target}, and told to let go of its file"
    if raw and not volume.facts["raw_written"] and (block / "ro").read_text() == "0\n":
        yield f"{source} is bound writable to {mount.target}, and no fact says that {volume.name} is raw"


def _of_marks(facts: Path, targets: set[Path]) -> Iterable[str]:
    marked = {_path(file) for file in (facts / "published").glob("*.json")}
    return (f"{target} has no mark of its publish" for target in targets - marked)


def _of_step(facts: Path, step: str, records: Collection[Path]) -> Iterable[str]:
    if records and step.removeprefix("start of ").startswith(_WRITING):
        yield f"{step} while a record at {next(iter(records))} promises a device to a guest"
    if step in _FREEZING and not any((facts / "frozen").glob("*.json")):
        yield f"{step} without the mark by which a start thaws it"


def _of_growth(step: str, volumes: list[_Volume]) -> Iterable[str]:
    growing = any(volume.facts["growing"] for volume in volumes)
    if step.removeprefix("start of ").startswith("resize2fs") and not growing:
        yield f"{step}, and no fact says that a growth may have been cut off"


def _held() -> set[Path]:
    """Name the loop devices that this process has open: the tests play whoever holds one."""
    opened = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            opened.add(descriptor.readlink())
    return {device for device in opened if re.fullmatch(r"/dev/loop\d+", str(device))}


def _has_file(device: Path) -> bool:
    return Path("/sys/block", device.name, "loop/backing_file").exists()


def _path(entry: Path) -> Path:
    """Decode which path a record's folder or a mark is named after."""
    return Path(base64.urlsafe_b64decode(entry.name.removesuffix(".json")).decode())


def _record(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError:
        return {}
    return record


def _volume(folder: Path, loops: dict[Path, Path]) -> _Volume:
    facts = json.loads(factfile.decode((folder / "volume.json").read_bytes()).facts)
    disk = folder / "disk.img"
    device = next((device for device, file in loops.items() if file == disk), None)
    return _Volume(folder.name, facts, device, disk)
