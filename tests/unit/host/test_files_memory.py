"""Telling memory from disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from katacsi.errors import HostError
from katacsi.host import directories


def test_tmpfs_is_memory_and_other_filesystems_are_not():
    """What decides whether a short write may be made without a thread."""
    assert directories.in_memory(Path("/dev/shm"))
    assert not directories.in_memory(Path("/proc"))


def test_an_absent_folder_is_neither(tmp_path):
    """Not being able to look is not an answer."""
    with pytest.raises(HostError, match="absent"):
        directories.in_memory(tmp_path / "absent")
