"""The tests below tests/lab/inside, run in the lab's machines and reported here as if they ran here.

Collected here, so that `-k`, marks and the list of gates work as everywhere; the first one that is due boots
the machines for all of them. They run pytest and write each report to a folder of this machine, which makes
them lines and counts of this run.

A module of such tests says what it needs by two names:

    UDEV = False     its machine runs no udev; LVM then makes device nodes itself, in half the time
    SECONDS = 140    what it takes, where that is more than a few; so that no machine waits for another
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parent.parent.parent
LAB = TREE / "tools" / "lab.py"
#: The machine's first disk holds the scratch folders, the others are the tests' own.
DISKS = ("16G", *("1G",) * 5)
TIMEOUT_S = 1500
#: A machine has one processor.
MACHINES = min(2, os.cpu_count() or 1)
#: A module that takes longer has a machine of its own; those that take less share one.
LONG_S = 60
SHORT_S = 10


def why_not() -> str:
    """Return why there is no lab on this machine; empty when there is one."""
    answer = subprocess.run(
        [sys.executable, LAB, "engine"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stderr.strip().splitlines()[-1] if answer.returncode else ""


@dataclass(frozen=True)
class Boot:
    """Tests that one machine is to run, and how long that may take."""

    tests: tuple[str, ...]
    udev: bool
    seconds: float


def boots(items: list[pytest.Item]) -> list[Boot]:
    """Spread tests over machines; give those that take long first."""
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    groups: dict[tuple[bool, Path | None], tuple[list[str], list[float]]] = defaultdict(lambda: ([], []))
    for path, tests in files.items():
        module = tests[0].getparent(pytest.Module)
        assert module is not None
        seconds = getattr(module.obj, "SECONDS", SHORT_S)
        group = groups[getattr(module.obj, "UDEV", True), path if seconds >= LONG_S else None]
        group[0].extend(item.nodeid for item in tests)
        group[1].append(seconds)
    found = [Boot(tuple(tests), udev, sum(seconds)) for (udev, _), (tests, seconds) in groups.items()]
    return sorted(found, key=lambda boot: boot.seconds, reverse=True)


class Machines:
    """The machines that run the tests of this session, a few at a time."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._due = boots(items)
        self._booted: list[_Machine] = []

    def reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Give the reports of a test once it is done; a failure when its machine ends without them."""
        while True:
            self._boot()
            machine = next((each for each in self._booted if item.nodeid in each.tests), None)
            reports = machine.reports_of(item) if machine else None
            if reports is not None:
                return iter(reports)
            time.sleep(0.05)

    def _boot(self) -> None:
        """Start the next machine, if one may run."""
        running = sum(machine.is_running() for machine in self._booted)
        while self._due and running < MACHINES:
            self._booted.append(_Machine(self._config, self._due.pop(0)))
            running += 1

    def seconds(self) -> dict[str, tuple[bool, float]]:
        """Say of each file whether its machine had udev, and how long its tests took."""
        return {
            file: (machine.udev, seconds)
            for machine in self._booted
            for file, seconds in machine.seconds.items()
        }

    def stop(self) -> None:
        """End the machines that still run."""
        for machine in self._booted:
            machine.stop()


class _Machine:
    """A booted machine that runs tests; each is waited for by its name."""

    def __init__(self, config: pytest.Config, boot: Boot) -> None:
        self.tests = frozenset(boot.tests)
        self.udev = boot.udev
        self.seconds: dict[str, float] = defaultdict(float)
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="katacsi-lab-tests-", dir="/var/tmp")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        self._reports = folder / "reports"
        self._reports.touch()
        self._read = 0
        self._arrived: dict[str, list[pytest.TestReport]] = {}
        tests_file = folder / "tests"
        tests_file.write_text("".join(f"{test}\n" for test in boot.tests), "utf-8")
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    sys.executable, LAB, "run", *(f"--disk={size}" for size in DISKS),
                    *([] if boot.udev else ["--no-udev"]),
                    f"--timeout={TIMEOUT_S}", f"--share={folder}", f"--env=LAB_REPORTS={self._reports}",
                    "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"@{tests_file}",
                ],
                cwd=TREE,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )  # fmt: skip

    def is_running(self) -> bool:
        """Tell whether it may still run tests."""
        return self._process.poll() is None

    def reports_of(self, item: pytest.Item) -> list[pytest.TestReport] | None:
        """Give the reports of a test, with a failure when the machine ended without them; None: not yet."""
        # Asked before the last look: what it wrote until then is there.
        running = self.is_running()
        self._read_reports()
        arrived = self._arrived.get(item.nodeid, [])
        if any(report.when == "teardown" for report in arrived):
            return self._arrived.pop(item.nodeid)
        return None if running else [*arrived, self._lost(item)]

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
                if report.skipped and isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # as pytest made it; JSON has no tuples
                self._arrived.setdefault(report.nodeid, []).append(report)
                self.seconds[report.nodeid.split("::")[0]] += report.duration

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
