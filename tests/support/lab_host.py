"""The tests below tests/lab/inside, run in the lab's machine and reported here as if they ran here.

Collected here, so that `-k`, marks and the list of gates work as everywhere; the first one that is due boots
the machines for all of them. They run pytest and write each report to a folder of this machine, which makes
them lines and counts of this run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parent.parent.parent
LAB = TREE / "tools" / "lab.py"
#: The machine's first disk holds the scratch folders, the others are the tests' own.
DISKS = ("16G", *("1G",) * 5)
TIMEOUT_S = 3600 if os.environ.get("KATACSI_LAB") == "full" else 1200
#: A machine has one processor.
MACHINES = min(2, os.cpu_count() or 1)


def why_not() -> str:
    """Return why there is no lab on this machine; empty when there is one."""
    answer = subprocess.run(
        [sys.executable, LAB, "prepare"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stderr.strip().splitlines()[-1] if answer.returncode else ""


class Machines:
    """The machines that run the tests of this session, a test file on one machine."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        files: dict[Path, list[str]] = {}
        for item in items:
            files.setdefault(item.path, []).append(item.nodeid)
        shares: list[list[str]] = [[] for _ in range(min(MACHINES, len(files)))]
        for tests in sorted(files.values(), key=len, reverse=True):
            min(shares, key=len).extend(tests)
        self._booted = [(set(share), _Machine(config, share)) for share in shares]

    def reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Give the reports of a test once it is done; a failure when its machine ends without them."""
        return next(machine for tests, machine in self._booted if item.nodeid in tests).reports_of(item)

    def stop(self) -> None:
        """End the machines that still run."""
        for _, machine in self._booted:
            machine.stop()


class _Machine:
    """A booted machine that runs tests; each is waited for by its name."""

    def __init__(self, config: pytest.Config, tests: list[str]) -> None:
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="katacsi-lab-tests-", dir="/var/tmp")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        self._reports = folder / "reports"
        self._reports.touch()
        self._read = 0
        self._arrived: dict[str, list[pytest.TestReport]] = {}
        tests_file = folder / "tests"
        tests_file.write_text("".join(f"{test}\n" for test in tests), "utf-8")
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    sys.executable, LAB, "run", *(f"--disk={size}" for size in DISKS),
                    f"--timeout={TIMEOUT_S}", f"--share={folder}", f"--env=LAB_REPORTS={self._reports}",
                    "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"@{tests_file}",
                ],
                cwd=TREE,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )  # fmt: skip

    def reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Give the reports of a test once it is done; a failure when the machine ends without them."""
        while not self._is_done(item.nodeid):
            # Asked before the last look: what it wrote until then is there.
            running = self._process.poll() is None
            self._read_reports()
            if self._is_done(item.nodeid):
                break
            if not running:
                yield from self._arrived.get(item.nodeid, [])
                yield self._lost(item)
                return
            time.sleep(0.05)
        yield from self._arrived.pop(item.nodeid)

    def _is_done(self, test: str) -> bool:
        return any(report.when == "teardown" for report in self._arrived.get(test, []))

    def _read_reports(self) -> None:
        """Take in the lines that the machine has written since the last look."""
        with self._reports.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self._read += len(line)
                data: dict[str, Any] = json.loads(line)
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                self._arrived.setdefault(report.nodeid, []).append(report)

    def _lost(self, item: pytest.Item) -> pytest.TestReport:
        """Return the report of a test that the machine never finished."""
        console = self._console.read_text("utf-8", "replace")[-6000:]
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr=f"the lab's machine ended before this test, code {self._process.returncode}:\n{console}",
            when="call",
        )

    def stop(self) -> None:
        """End the machine and remove its folder; nothing on its disks is wanted any more."""
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()
