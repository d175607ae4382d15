"""What the tests in the lab's machine share: a disk for scratch files, and disks to put volume groups on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.real_lvm import DISKS, SCRATCH_DISK, VG, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def scratch_disk() -> Iterator[Path]:
    """A filesystem on the machine's first disk: its root is memory, no place for images of volumes."""
    folder = Path("/mnt/scratch")
    folder.mkdir()
    options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
    subprocess.run(["mkfs.ext4", "-q", "-E", options, SCRATCH_DISK], check=True)
    subprocess.run(["mount", SCRATCH_DISK, folder], check=True)
    # Only until the next fixture has read it: the driver takes every KATACSI_ variable for a setting.
    os.environ["KATACSI_TEST_FOLDER"] = str(folder)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def scratch_root(scratch_disk: Path, scratch_root: Path) -> Path:
    """The folder of all scratch folders, on the disk."""
    del os.environ["KATACSI_TEST_FOLDER"]
    assert scratch_root.is_relative_to(scratch_disk)
    return scratch_root


@pytest.fixture
def disks() -> Iterator[list[Path]]:
    """The machine's disks for volume groups, empty, and empty again afterwards."""
    yield DISKS
    subprocess.run(["wipefs", "--all", "--quiet", *DISKS], check=True)


@pytest.fixture
def group(disks: list[Path]) -> Iterator[Callable[..., None]]:
    """Make the volume group of some disks, by default of them all: `group(*devices)`."""

    def make(*devices: Path) -> None:
        run("vgcreate", "--yes", VG, *(devices or disks))

    yield make
    run("vgremove", "--force", "--yes", VG)
