"""Filesystems for pools, each in an image file of its own."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def mounted_filesystem(scratch: Path, kind: str, size_mib: int, *options: str) -> Iterator[Path]:
    """Mount a new filesystem below a scratch folder, as `<kind>-pool`; its image is `<kind>.img`."""
    point = scratch / f"{kind}-pool"
    point.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "pool", point], check=True)
    else:
        image = scratch / f"{kind}.img"
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        subprocess.run([f"mkfs.{kind}", "-q", *options, image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def filled(point: Path) -> None:
    """Fill a filesystem to its last block, as others do who store on it, too."""
    for number, size in enumerate(("1M", "4k", "4k")):
        # Reserved blocks come free when what is delayed was written, so again after a sync.
        into = point / f".filling-{number}"
        subprocess.run(["dd", "if=/dev/zero", f"of={into}", f"bs={size}"], check=False, capture_output=True)
        subprocess.run(["sync", "-f", point], check=True)
