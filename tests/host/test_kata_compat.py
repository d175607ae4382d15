"""Kata's own code and the driver, on one root of records. On demand: no registry serves Kata's code.

KATACSI_SOURCE_KATA=<clone of kata-containers> make test TIER=host ARGS="-k kata_compat"
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kata_source

TREE = Path(__file__).resolve().parents[2]
SCRIPT = TREE / "tests" / "support" / "kata_compat.py"

pytestmark = [
    pytest.mark.timeout(1800),  # the first time, Kata's runtime and its crate are compiled
    pytest.mark.skipif(
        not os.environ.get(kata_source.VARIABLE),
        reason=f"{kata_source.VARIABLE} names no clone of kata-containers, and no registry serves its code",
    ),
]

PARTS = [
    "written",
    "removed",
    "sandboxes",
    "whole",
    "served",
    "proved",
    "written-by-kata-runtime",
    "removed-by-kata-runtime",
    "sandboxes-with-kata-runtime",
    "served-with-kata-runtime",
]


def test_kata_still_answers_as_the_vectors_say():
    """The vectors that every run compares with are what Kata's code answers now."""
    answer = subprocess.run(
        [sys.executable, TREE / "tools" / "kata_vectors.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "as they are\n", "")


def test_the_driver_and_kata_understand_each_other(scratch):
    """Written, read, removed and marked with sandboxes by either; by file and by kata-runtime itself."""
    programs = kata_source.programs()
    words = [str(word) for word in (scratch, programs["go"], programs["rust"], kata_source.kata_runtime())]
    output = kata_source.in_private(
        [sys.executable, str(SCRIPT), *words],
        {"PYTHONPATH": os.pathsep.join(str(TREE / folder) for folder in ("tests", "tools"))},
    )
    assert output.decode().split() == PARTS
