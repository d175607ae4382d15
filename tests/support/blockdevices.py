"""Loop devices and mounts for a test, made by the system's own tools and gone when the block ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


def run(*argv: str | Path) -> str:
    """Run a tool that must succeed; give what it printed."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True).stdout


def need(*tools: str) -> None:
    """Skip the test when a tool is missing."""
    if missing := [
        tool for tool in tools if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    ]:
        pytest.skip(f"{', '.join(missing)} not found: run tools/bootstrap.sh tools")


def sparse_file(path: Path, size: int) -> Path:
    """Make a file of this many bytes without data, or change the size of one."""
    path.touch()
    os.truncate(path, size)
    return path


@contextlib.contextmanager
def loop_device(file: Path, *, sector_size: int = 4096, direct_io: bool = True) -> Iterator[Path]:
    """Attach a file."""
    device = run(
        "losetup", "--find", "--show", f"--sector-size={sector_size}",
        f"--direct-io={'on' if direct_io else 'off'}", file,
    ).strip()  # fmt: skip
    try:
        # A loop device stays read-only for the next file that it is attached to, if anybody made it so.
        run("blockdev", "--setrw", device)
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device: Path, target: Path, *options: str) -> Iterator[Path]:
    """Mount a device."""
    target.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(("rw", *options)), device, target)
    try:
        yield target
    finally:
        run("umount", target)
        target.rmdir()


def resize(file: Path, device: Path, size: int) -> None:
    """Give a file another size, and its loop device, too."""
    os.truncate(file, size)
    run("losetup", "--set-capacity", device)


def backing(device: Path) -> str:
    """Give the path of a loop device's file, as sysfs shows it; empty where it has none."""
    shown = Path(f"/sys/block/{device.name}/loop/backing_file")
    return shown.read_text().strip() if shown.exists() else ""
