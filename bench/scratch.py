"""The folder that a run works in, and what may be left in the kernel below it: mounts and loop devices."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "katacsi-bench-"


class Failure(Exception):
    """The measurement cannot go on; the message says why and what to do."""


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a fresh folder on a disk; afterwards nothing of it is left, in the kernel neither."""
    for old in parent.glob(_PREFIX + "*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            clear(old)  # its run was killed
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)).resolve()
    try:
        yield folder
    finally:
        clear(folder)


def clear(folder: Path) -> None:
    """Unmount and detach everything below a folder, then remove it."""
    loops = loops_below(folder)
    devices = {str(device) for device in loops}
    for target, source in reversed(_mounts()):
        if target.is_relative_to(folder) or source in devices:
            subprocess.run(["umount", target], check=True)
    for device in loops:
        # The kernel may free it by itself once its last holder goes.
        subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)
    deadline = time.monotonic() + 5
    while (left := loops_below(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        raise Failure(f"{folder} stays: {', '.join(map(str, left))} cannot be detached from files in it")
    shutil.rmtree(folder)


def loops_below(folder: Path) -> list[Path]:
    """List the loop devices whose backing file is, or was, below a folder."""
    found = []
    for state in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached between listing and reading
            file = Path(state.read_text().rstrip("\n").removesuffix(" (deleted)"))
            if file.is_relative_to(folder):
                found.append(Path("/dev", state.parts[3]))
    return found


def filesystem_of(folder: Path) -> str:
    """Give the type of the filesystem that a folder lies on."""
    answer = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def _mounts() -> list[tuple[Path, str]]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        found.append((Path(_plain(left.split(" ")[4])), _plain(right.split(" ")[1])))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
