"""A pytest plugin that writes how many tests passed, failed and were skipped to `$KATACSI_COUNTS` as JSON.

`run_tests.py` loads it with `-p`. Counting reports beats reading pytest's last line: that line changes with
options, plugins and releases, and is missing after a crash.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_GRAVITY = {"passed": 0, "skipped": 1, "failed": 2}
_outcomes: dict[str, str] = {}


def _note(nodeid: str, outcome: str) -> None:
    """Keep the gravest of a test's three phases: a failing teardown fails a test that passed."""
    known = _outcomes.get(nodeid, "passed")
    _outcomes[nodeid] = max(known, outcome, key=_GRAVITY.__getitem__)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a phase of a test; an expected failure has proven nothing and counts as skipped."""
    # A test has passed when its body has: an interrupted one reports a good setup and nothing more.
    if report.when == "call" or report.outcome != "passed":
        _note(report.nodeid, report.outcome)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a module that failed to import, or that skips itself whole."""
    if report.outcome != "passed":
        _note(report.nodeid, report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts."""
    target = os.environ.get("KATACSI_COUNTS")
    # A process among several only has its share; they report to the one that writes.
    if target and not hasattr(session.config, "workerinput"):
        outcomes = list(_outcomes.values())
        Path(target).write_text(json.dumps({kind: outcomes.count(kind) for kind in _GRAVITY}), "utf-8")
