"""A plugin of pytest that writes down how each test of a broken backend ended, as JSON."""

import json
import os
from pathlib import Path

import pytest

#: Names the file.
ANSWER = "KATACSI_KIT_ENDS"

_ends: dict[str, dict[str, tuple[str, str, str]]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Note outcome and step, the class of the error and its first line; the first end of a test counts."""
    report = yield
    error = call.excinfo
    if call.when == "call" or not report.passed:
        words = str(error.value).split("\n", 1)[0] if error else ""
        end = (f"{report.outcome} in {call.when}", error.type.__name__ if error else "", words)
        _ends.setdefault(item.cls.backend.__name__, {}).setdefault(item.name, end)
    return report


def pytest_sessionfinish():
    """Write it all down."""
    Path(os.environ[ANSWER]).write_text(json.dumps(_ends))
