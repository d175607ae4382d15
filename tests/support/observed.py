"""What a driver has brought about, as comparable text: files, records, facts, mounts, devices, filesystems.

Names, paths, device numbers, UUIDs and times differ from run to run and are replaced by words, so that the
state after a crash and a retry can be compared with the state after a run without a crash.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.backends.loopfile import factfile
from katacsi.host import superblock
from katacsi.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.zygote import ZygoteDriver

_LOOP = re.compile(r"/dev/loop\d+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REPLAYS = Path("/run/katacsi")


def state(driver: ZygoteDriver, words: dict[str, str]) -> str:
    """Describe all that there is of a driver's volumes; `words` stand for the names of this run."""
    loops = leaks.loops_below(driver.scratch)
    lines = [
        *_folder("pool", driver.pool, driver),
        *_folder("records", driver.records, driver),
        *_folder("facts", driver.facts, driver),
        *_folder("pods", driver.pods, driver),
        *_folder("staging", driver.staging, driver),
        *_mounts(driver, loops),
        *_loops(loops, driver),
        *_filesystems(driver, loops),
    ]
    # Sorted afterwards: a name in base64 sorts by what it encodes, and that differs from run to run.
    return "\n".join(sorted(neutral("\n".join(lines), driver, words, loops).splitlines()))


def neutral(
    text: str, driver: ZygoteDriver, words: dict[str, str], loops: dict[Path, Path] | None = None
) -> str:
    """Replace what differs from run to run."""
    loops = leaks.loops_below(driver.scratch) if loops is None else loops
    for device, file in loops.items():
        text = re.sub(rf"{device}\b", f"<loop of {file}>", text)
    identity = driver.pool / "pool.json"
    if identity.exists():
        text = text.replace(json.loads(identity.read_text())["uid"], "<uid>")
    text = text.replace(str(driver.scratch), "<scratch>").replace(str(driver.run), "<run>")
    for name in sorted(words, key=len, reverse=True):
        text = text.replace(name, words[name])
    return text


def left(driver: ZygoteDriver) -> list[str]:
    """Say what a driver without volumes still has; nothing is right."""
    found = [
        str(path)
        for root in (driver.pool, driver.records, driver.facts, driver.pods, driver.staging)
        for path in root.rglob("*")
        if str(path.relative_to(root)) not in _ALWAYS[root.name]
    ]
    leaked = leaks.settled_leaks_below(driver.scratch)
    found += str(leaked).splitlines() + str(leaks.leaks_below(driver.run)).splitlines()
    return found


_ALWAYS = {
    "pool": {"pool.json", ".lock", "volumes", "snapshots"},
    "facts": {"frozen", "published", "staged"},
    "records": set(),
    "pods": set(),
    "staging": set(),
}


def _folder(title: str, root: Path, driver: ZygoteDriver) -> Iterable[str]:
    if not root.exists():
        return
    for path in _walk(root):
        status = path.lstat()
        shown = "/".join(_readable(part) for part in path.relative_to(root).parts)
        if shown.startswith("[/.katacsi-tmp/"):
            # The writer's place for temporary files, which looks like a released record to everybody; the
            # next write or removal for its target clears it.
            continue
        if stat.S_ISDIR(status.st_mode):
            yield f"{title}: {shown}/ {stat.S_IMODE(status.st_mode):o}"
        elif not stat.S_ISREG(status.st_mode):
            yield f"{title}: {shown} {stat.S_IFMT(status.st_mode):o}"
        elif path.name == "disk.img":
            yield f"{title}: {shown} {status.st_size} bytes"
            if status.st_blocks * 512 >= status.st_size:
                yield f"{title}: {shown} all blocks reserved"
        elif path.suffix == ".json" and path.name != "pool.json":
            yield f"{title}: {shown} {_record(path)}"
        else:
            yield f"{title}: {shown} {stat.S_IMODE(status.st_mode):o}"


def _walk(root: Path) -> Iterable[Path]:
    """Go through a folder, and not into what is mounted there."""
    for entry in sorted(root.iterdir()):
        yield entry
        if stat.S_ISDIR(entry.lstat().st_mode) and not entry.is_mount():
            yield from _walk(entry)


def _readable(part: str) -> str:
    """Decode what is base64 of a path (records and facts are named so)."""
    stem = part.removesuffix(".json")
    try:
        path = base64.urlsafe_b64decode(stem.encode()).decode()
    except ValueError:
        return part
    return f"[{path}]" if path.startswith("/") else part


def _record(path: Path) -> str:
    record = _volume(path) if path.name == "volume.json" else json.loads(path.read_text())
    record.pop("created_at", None)
    if path.parent.name == "staged":
        # Where the device was when it was staged; a direct volume that grows may get another one.
        record.pop("device", None)
    facts = record.get("facts")
    if facts and facts.get("fs_uuid"):
        # The UUID is random; what matters is that the device shows it.
        shown = _superblock(path.parent / "disk.img")
        facts["fs_uuid"] = "as the device shows" if shown == facts["fs_uuid"] else "another than the device's"
    return json.dumps(record, sort_keys=True)


def _volume(path: Path) -> dict[str, Any]:
    """Read a volume's record; how often its facts were changed does not matter."""
    content = factfile.decode(path.read_bytes())
    return {**json.loads(content.line), "facts": json.loads(content.facts)}


def _superblock(disk: Path) -> str:
    found = superblock.read(disk) if disk.exists() else None
    return found.uuid if found else ""


def _mounts(driver: ZygoteDriver, loops: dict[Path, Path]) -> Iterable[str]:
    devices = {str(device) for device in loops}
    lines = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        here, there = line.split(" - ", 1)
        _, _, _, root, target, options = here.split(" ")[:6]
        fs_type, source, super_options = there.split(" ")[:3]
        if not (
            Path(target).is_relative_to(driver.scratch)
            or Path(target).is_relative_to(driver.run)
            or source in devices
        ):
            continue
        if fs_type == "devtmpfs":  # a device node, bound to a target
            root = str(Path("/dev") / root.lstrip("/"))
        flags = ",".join(
            sorted({*options.split(","), *super_options.split(",")} & {"ro", "rw", "nouuid", "noexec"})
        )
        lines.append(f"mount: {target} shows {root} of {fs_type} {source} ({flags})")
    return sorted(lines)


def _loops(loops: dict[Path, Path], driver: ZygoteDriver) -> Iterable[str]:
    del driver
    lines = []
    for device, file in loops.items():
        block = Path("/sys/block") / device.name
        dio = (block / "loop/dio").read_text().strip()
        sector = (block / "queue/logical_block_size").read_text().strip()
        discard = int((block / "queue/discard_max_bytes").read_text()) > 0
        read_only = (block / "ro").read_text().strip()
        autoclear = (block / "loop/autoclear").read_text().strip()
        size = int((block / "size").read_text()) * 512
        lines.append(
            f"loop: {file} {size} bytes dio={dio} sector={sector} discard={discard} ro={read_only} "
            f"autoclear={autoclear}"
        )
        number = device.stat().st_rdev
        replay = _REPLAYS / f"log-replay-{os.major(number)}-{os.minor(number)}"
        if replay.exists():
            lines.append(f"log replay left: {file}")
    return sorted(lines)


def _filesystems(driver: ZygoteDriver, loops: dict[Path, Path]) -> Iterable[str]:
    """Say which filesystem each disk holds, and how large it is."""
    of_file = {file: device for device, file in loops.items()}
    mounted = {mount.source: mount.target for mount in leaks.mounts()}
    for disk in sorted(driver.pool.glob("*/*/disk.img")):
        device = of_file.get(disk)
        found = superblock.read(device or disk)
        if found is None:
            yield f"filesystem: {disk} none"
            continue
        target = mounted.get(str(device))
        # The superblock of a mounted filesystem is written when the kernel likes.
        size = os.statvfs(target).f_blocks * os.statvfs(target).f_frsize if target else found.size_bytes
        yield f"filesystem: {disk} {found.fs_type} {size} bytes"
