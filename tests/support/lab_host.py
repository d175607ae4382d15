"""The tests below tests/lab/inside, run in the lab's machines and reported here as if they ran here.

Collected here, so that `-k`, marks and the list of gates work as everywhere; the first one that is due boots
the machines for all of them. They run pytest and write each report to a folder of this machine, which makes
them lines and counts of this run.

A module of such tests says what it needs by three names:

    UDEV = False       its machine runs no udev; LVM then makes device nodes itself, in half the time
    SECONDS = 140      what it takes, where that is more than a few; so that no machine waits for another
    ENGINE = "qemu"    its machine is of this engine, whichever the others have
"""

from __future__ import annotations

import functools
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
#: Names the engine.
VARIABLE = "KATACSI_LAB_ENGINE"
#: The machine's first disk holds the scratch folders, the others are the tests' own.
DISKS = ("16G", *("1G",) * 5)
TIMEOUT_S = 1500
TEST_TIMEOUT_S = 300
#: A test that takes too long is ended from within. A machine without a word for so much longer stands still
#: as a whole: its kernel, or a process in it that no signal reaches.
STANDSTILL_S = TEST_TIMEOUT_S + 120
#: So many times longer an engine may take, beside user-mode Linux.
SLOWNESS = {"uml": 1, "qemu": 2}
#: A machine has one processor.
MACHINES = min(2, os.cpu_count() or 1)
#: A module that takes longer has a machine of its own; those that take less share one.
LONG_S = 60
SHORT_S = 10


@dataclass(frozen=True)
class Engine:
    """What boots machines here."""

    name: str
    """Empty when nothing does."""
    why: str
    """Why it is this one, or none."""

    @property
    def slowness(self) -> int:
        """How many times longer than others it may take."""
        return SLOWNESS[self.name]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which tools/lab.py takes it."""
        return os.environ | {VARIABLE: self.name}


@functools.cache
def engine(wanted: str = "") -> Engine:
    """Return the engine of that name; by default the one that the environment or tools/lab.py prefers."""
    answer = subprocess.run(
        [sys.executable, LAB, "engine"],
        env=os.environ | ({VARIABLE: wanted} if wanted else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        return Engine("", answer.stderr.strip().splitlines()[-1])
    name, _, why = answer.stdout.strip().partition(": ")
    return Engine(name, why)


def is_required() -> bool:
    """Whether this is a run that may not do without the lab (tools/run_tests.py)."""
    return "lab" in os.environ.get("KATACSI_REQUIRE", "").replace(",", " ").split()


def needs(found: Engine) -> None:
    """Go on with a test where there is the engine; else skip it, or fail where that is not allowed."""
    if not found.name:
        (pytest.fail if is_required() else pytest.skip)(found.why)


@dataclass(frozen=True)
class Boot:
    """Tests that one machine is to run, and how long that may take."""

    tests: tuple[str, ...]
    udev: bool
    engine: Engine
    seconds: float


def engine_of(item: pytest.Item) -> Engine:
    """Return the engine of the machine that a test is for; any is better than none, but in CI."""
    module = item.getparent(pytest.Module)
    assert module is not None
    wanted = engine(getattr(module.obj, "ENGINE", ""))
    return wanted if wanted.name or is_required() else engine()


def boots(items: list[pytest.Item]) -> list[Boot]:
    """Spread tests over machines; give those that take long first."""
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    groups: dict[tuple[bool, Engine, Path | None], tuple[list[str], list[float]]]
    groups = defaultdict(lambda: ([], []))
    for path, tests in files.items():
        module = tests[0].getparent(pytest.Module)
        assert module is not None
        seconds = getattr(module.obj, "SECONDS", SHORT_S)
        udev = getattr(module.obj, "UDEV", True)
        group = groups[udev, engine_of(tests[0]), path if seconds >= LONG_S else None]
        group[0].extend(item.nodeid for item in tests)
        group[1].append(seconds)
    found = [
        Boot(tuple(tests), udev, engine, sum(seconds))
        for (udev, engine, _), (tests, seconds) in groups.items()
    ]
    return sorted(found, key=lambda boot: boot.seconds, reverse=True)


class Machines:
    """The machines that run the tests of this session, a few at a time."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._due = boots([item for item in items if engine_of(item).name])
        self._booted: list[_Machine] = []
        #: What is told of machines that stood still.
        self.standstills: list[str] = []

    def reports_of(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Give the reports of a test once it is done; a failure when it has no machine, or that has ended."""
        if not (found := engine_of(item)).name:
            return iter([_failed(item, found.why)])
        while True:
            self._boot()
            machine = next((each for each in reversed(self._booted) if item.nodeid in each.tests), None)
            if machine and machine.stands_still() and not machine.is_second:
                self._replace(machine)
                continue
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

    def _replace(self, machine: _Machine) -> None:
        """Have another machine run what one that stood still has not; a second standstill is a failure."""
        left = machine.left()
        self.standstills.append(
            f"a machine ({machine.engine.name}) stood still at {left[0]}; another one ran that and "
            f"{len(left) - 1} more tests"
        )
        boot = Boot(left, machine.udev, machine.engine, 0)
        self._booted.append(_Machine(self._config, boot, is_second=True))

    def seconds(self) -> dict[str, tuple[str, float]]:
        """Say of each file what its machine was like, and how long its tests took."""
        return {
            file: (f"{machine.engine.name} {'' if machine.udev else 'without '}udev", seconds)
            for machine in self._booted
            for file, seconds in machine.seconds.items()
        }

    def stop(self) -> None:
        """End the machines that still run."""
        for machine in self._booted:
            machine.stop()


class _Machine:
    """A booted machine that runs tests; each is waited for by its name."""

    def __init__(self, config: pytest.Config, boot: Boot, *, is_second: bool = False) -> None:
        self.tests = boot.tests
        self.is_second = is_second
        self._heard = time.monotonic()
        self._finished: set[str] = set()
        self.udev = boot.udev
        self.engine = boot.engine
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
                    f"--timeout={TIMEOUT_S * boot.engine.slowness}",
                    f"--share={folder}", f"--env=LAB_REPORTS={self._reports}",
                    "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider",
                    f"--timeout={TEST_TIMEOUT_S * boot.engine.slowness}", f"@{tests_file}",
                ],
                cwd=TREE,
                env=boot.engine.environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )  # fmt: skip

    def is_running(self) -> bool:
        """Tell whether it may still run tests."""
        return self._process.poll() is None

    def stands_still(self) -> bool:
        """Whether nothing has come of it for longer than any test may take; then it is ended."""
        self._read_reports()
        if (
            self.is_running()
            and self.left()
            and time.monotonic() - self._heard > STANDSTILL_S * self.engine.slowness
        ):
            self._process.terminate()
            self._process.wait(30)
            return True
        return False

    def left(self) -> tuple[str, ...]:
        """Give the tests that it has not ended, the one that it runs first."""
        return tuple(test for test in self.tests if test not in self._finished)

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
                self._heard = time.monotonic()
                data: dict[str, Any] = json.loads(line)
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
                if report.skipped and isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # as pytest made it; JSON has no tuples
                self._arrived.setdefault(report.nodeid, []).append(report)
                if report.when == "teardown":
                    self._finished.add(report.nodeid)
                self.seconds[report.nodeid.split("::")[0]] += report.duration

    def _lost(self, item: pytest.Item) -> pytest.TestReport:
        """Return the report of a test that the machine never finished."""
        console = self._console.read_text("utf-8", "replace")[-6000:]
        code = self._process.returncode
        return _failed(item, f"the lab's machine ended before this test, code {code}:\n{console}")

    def stop(self) -> None:
        """End the machine and remove its folder; nothing on its disks is wanted any more."""
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()


def _failed(item: pytest.Item, why: str) -> pytest.TestReport:
    """Return the report of a test that could not be run."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=why,
        when="call",
    )
