"""Real LVM in the lab's machine: its commands, and a disk that can be pulled out."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VG = "lab"
#: The machine's disks, the first for scratch files; none outside of it, where tests are only collected.
SCRATCH_DISK, *DISKS = map(Path, os.environ.get("LAB_DISKS", "/none").split())
#: What the pools may look at.
DEVICES = (f"{str(SCRATCH_DISK)[:-1]}*",)


def run(*argv: str | Path) -> str:
    """Run a tool that must succeed; give what it printed."""
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{' '.join(map(str, argv))}: {answer.stderr}"
    return answer.stdout


def lvcreate(name: str, *arguments: str | Path, source: str = VG) -> Path:
    """Make a logical volume of the group, or of one of its volumes; give its device."""
    options = [argument for argument in arguments if isinstance(argument, str)]
    disks = [argument for argument in arguments if isinstance(argument, Path)]
    run("lvcreate", "--yes", "--name", name, *options, source, *disks)
    return Path("/dev", VG, name)


def lvs(name: str, *columns: str) -> dict[str, str]:
    """Give columns of `lvs` for a volume."""
    answer = run("lvs", "--reportformat=json", "--options", ",".join(columns), f"{VG}/{name}")
    return json.loads(answer)["report"][0]["lv"][0]


def health(name: str) -> str:
    """Say what LVM thinks of a volume; empty when all is well."""
    return lvs(name, "lv_health_status")["lv_health_status"]


def is_in_sync(name: str) -> bool:
    """Tell whether all copies of a volume are the same."""
    return lvs(name, "sync_percent")["sync_percent"] == "100.00"


@contextlib.contextmanager
def pullable(disk: Path) -> Iterator[Path]:
    """A disk that can be pulled out by `pull`, as long as the block lasts."""
    # Not from its beginning: LVM must not find the label on the disk itself once this is gone.
    start = 2048
    size = int(run("blockdev", "--getsz", disk)) - start
    run("dmsetup", "create", "pullable", "--table", f"0 {size} linear {disk} {start}")
    try:
        yield Path("/dev/mapper/pullable")
    finally:
        run("dmsetup", "remove", "--retry", "--force", "pullable")
        run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=4", "conv=fsync")


def pull(device: Path) -> None:
    """Make every access to a pullable disk fail from now on."""
    run("dmsetup", "wipe_table", "--force", "--noflush", device)


def wait_for(condition: Callable[[], bool], patience_s: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)
