"""The kit finds what loses data: each deliberate bug is caught by the test that is named for it.

The backends are those of `support.kit_mutants`; each is the reference backend, which passes, with one bug.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import kit_proof, kit_recorder
from support.kit_mutants.registry import MUTANTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"

#: A test that ends so has met a mistake in the broken backend, and not its bug.
NO_FINDINGS = {"AttributeError", "ImportError", "KeyError", "NameError", "TypeError", "fixture"}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """How the tests ended, by broken backend and test."""
    answer = tmp_path_factory.mktemp("kit") / "ends.json"
    argv = ["-m", "pytest", kit_proof.__file__, "-q", "-p", "support.kit_recorder", "-p", "no:cacheprovider"]
    path = os.pathsep.join(str(folder) for folder in sys.path if folder)
    done = subprocess.run(
        [sys.executable, *argv, "-o", "python_files=*.py"],
        env={**os.environ, "PYTHONPATH": path, kit_recorder.ANSWER: str(answer)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.exists(), done.stdout + done.stderr
    return json.loads(answer.read_text())


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.backend.__name__ for mutant in MUTANTS])
def test_the_bug_is_found(mutant, ends):
    """The named tests fail for the broken backend, by what they compare and not by an accident."""
    found = ends[mutant.backend.__name__]
    for test in mutant.tests:
        outcome, kind, words = found[test]
        assert outcome == "failed in call", f"{mutant.bug}: {test} {outcome} ({words})"
        assert kind not in NO_FINDINGS, f"{mutant.bug}: {test} met {kind} ({words})"


def test_the_page_shows_each_bug():
    """docs/conformance.md has a row for each bug, with the test that finds it."""
    rows = ["| bug | found by |", "|---|---|"]
    rows += [f"| {mutant.bug} | {', '.join(f'`{test}`' for test in mutant.tests)} |" for mutant in MUTANTS]
    before, rest = PAGE.read_text().split("<!-- bugs:")
    head, rest = rest.split("-->\n", 1)
    shown, after = rest.split("<!-- end of bugs -->")
    wanted = "\n".join(["", *rows, "", ""])
    if os.environ.get("KATACSI_WRITE"):
        PAGE.write_text(f"{before}<!-- bugs:{head}-->\n{wanted}<!-- end of bugs -->{after}")
    else:
        assert shown == wanted
