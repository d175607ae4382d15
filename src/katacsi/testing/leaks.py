"""What is left in the kernel below a folder, mounts and loop devices: found, and undone.

It is read and undone by other means than the driver's own, so that a test may hold the driver against it.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    target: Path
    filesystem: str
    source: str


@dataclass
class Leaks:
    """What still stands below a folder, in an order in which it can be undone."""

    mounts: list[Path] = field(default_factory=list)
    loops: dict[Path, Path] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.mounts or self.loops)

    def __str__(self) -> str:
        lines = [f"mount {target}" for target in self.mounts]
        return "\n".join([*lines, *(f"{device} backed by {file}" for device, file in self.loops.items())])


def mounts() -> list[Mount]:
    """Return every mount this process sees, oldest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").rstrip("\n").split("\n"):
        left, right = line.split(" - ", 1)
        filesystem, source = right.split(" ")[:2]
        found.append(Mount(Path(_unescape(left.split(" ")[4])), filesystem, _unescape(source)))
    return found


def loops_below(folder: Path) -> dict[Path, Path]:
    """Return the loop devices whose backing file is, or was, below a folder."""
    found = {}
    for state in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached between listing and reading
            file = Path(state.read_text("utf-8", "surrogateescape").rstrip("\n").removesuffix(" (deleted)"))
            if file.is_relative_to(folder):
                found[Path("/dev", state.parts[3])] = file
    return found


def leaks_below(folder: Path) -> Leaks:
    """Return the mounts below a folder, those of its loop devices anywhere, and those loop devices."""
    loops = loops_below(folder)
    devices = {str(device) for device in loops}
    targets = [
        mount.target for mount in mounts() if mount.target.is_relative_to(folder) or mount.source in devices
    ]
    # The newest first: a mount may lie below, or on top of, an older one.
    return Leaks(mounts=targets[::-1], loops=loops)


def settled_leaks_below(folder: Path, patience_s: float = 2.0) -> Leaks:
    """Return what is left once the kernel had time to finish: it frees an autoclear loop device later."""
    deadline = time.monotonic() + patience_s
    while (leaks := leaks_below(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return leaks


def undo(leaks: Leaks, *, lazily: bool = True) -> None:
    """Unmount and detach, as far as possible; what resists stays for the next look.

    Args:
        leaks: of `leaks_below`.
        lazily: take a mount that a process still holds out of sight, so that its folder comes free.
    """
    for target in leaks.mounts:
        if not _succeeds("umount", target) and lazily:
            _succeeds("umount", "--lazy", target)
    for device in leaks.loops:
        _succeeds("losetup", "--detach", device)


def filesystem_of(folder: Path) -> str:
    """Return the type of the filesystem that a folder lies on; empty where it sees no mount of it."""
    over = [mount for mount in mounts() if folder.resolve().is_relative_to(mount.target)]
    # The deepest mount point wins, and of several mounts on one point the newest.
    deepest = max(enumerate(over), key=lambda at: (len(at[1].target.parts), at[0]), default=None)
    return deepest[1].filesystem if deepest else ""


def _succeeds(*argv: str | Path) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _unescape(text: str) -> str:
    r"""Return a path as it is; the kernel writes spaces, tabs, newlines and backslashes as \ooo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
