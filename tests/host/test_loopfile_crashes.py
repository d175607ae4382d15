"""A pool survives being killed before and after every step of everything it does."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.pools import mounted_filesystem

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "loopfile_crashes.py"


@pytest.mark.gate("kill-at-every-step")
@pytest.mark.parametrize(
    ("kind", "options", "operations"),
    [
        ("ext4", ("-m", "0"), ()),
        # Only what is done otherwise where blocks can be shared.
        ("xfs", ("-m", "reflink=1"), ("clone", "clone_thick", "snapshot")),
    ],
    ids=["ext4", "reflink-xfs"],
)
def test_a_repeated_call_finishes_what_a_killed_one_began(scratch, kind, options, operations):
    """After a kill at any point a new process takes over, the same call succeeds, and nothing is left."""
    with mounted_filesystem(scratch, kind, 320, *options) as point:
        folder = point / "pool"
        folder.mkdir()
        answer = subprocess.run(
            [sys.executable, PROGRAM, folder, *operations], capture_output=True, text=True, check=False
        )
    assert answer.returncode == 0, answer.stdout + answer.stderr
