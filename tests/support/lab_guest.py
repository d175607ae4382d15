"""The side of tests/support/lab_host.py that runs in the lab's machine."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Reporter:
    """A pytest plugin: writes each report at once, as a line of JSON, for whoever waits on the host."""

    def __init__(self, config: pytest.Config, target: Path) -> None:
        self._config = config
        self._file = target.open("a", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a report and push it through to the host."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._file.write(json.dumps(data, default=str) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
