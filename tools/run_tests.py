#!/usr/bin/env python3
"""Run the test ladder, tier by tier; this is what `make test` does.

    run_tests.py                       every tier
    run_tests.py unit rpc              some tiers
    run_tests.py unit -- -k publish    what follows `--` goes to pytest
    run_tests.py --list                the tiers that have tests

The last line, alone, is `N passed, N failed, N skipped`. The exit code is 1 when anything failed, or when a
tier named in `KATACSI_REQUIRE` (names with spaces between) ran no test at all: a machine that quietly lacks
root or a tool must not look green.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import gotools
import kubetools
from tier_pytest import PYTHON, Running
from tiers import BY_NAME, TIERS, TREE, Outcome, Tier, has_tests

if TYPE_CHECKING:
    from types import TracebackType
    from typing import IO

SCRIPTS = ("bootstrap", "guest_init", "lab_inside", "lab_qemu_init", "lab_uml_init")

# Each line counts as one test. `make fmt` mends the second, `make generate` the two before the last.
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("lint-imports", "--no-logo"),
    ("python", "tools/generate.py", "--check"),
    ("python", "tools/chart_schema.py", "--check"),
    ("bash", "-n", *(f"tools/{name}.sh" for name in SCRIPTS), ".ci/run"),
)


def say(text: str = "") -> None:
    """Print at once: the subprocesses write to the same stream."""
    print(text, flush=True)


def run_checks() -> Outcome:
    """Run each command of CHECKS; show the output of those that fail."""
    outcome = Outcome()
    with ThreadPoolExecutor(os.cpu_count()) as processors:
        for command, (output, seconds) in zip(CHECKS, processors.map(_checked, CHECKS), strict=True):
            good = output is None
            say(f"{'ok    ' if good else 'FAILED'} {seconds:5.1f} s  {' '.join(command)}")
            if good:
                outcome.passed += 1
            else:
                outcome.failed += 1
                say(output or "")
    return outcome


def _checked(command: tuple[str, ...]) -> tuple[str | None, float]:
    """Run a check; return its output, None when it is content, and the seconds that it took."""
    program = PYTHON if command[0] == "python" else PYTHON.parent / command[0]
    argv = [str(program) if program.exists() else command[0], *command[1:]]
    started = time.monotonic()
    answer = subprocess.run(
        argv,
        cwd=TREE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return answer.stdout.rstrip() if answer.returncode else None, time.monotonic() - started


class Ladder:
    """The tiers that run, in their order, and what came of them."""

    def __init__(self, wanted: list[Tier], options: list[str], required: set[str]) -> None:
        self._wanted, self._options, self._required = wanted, options, required
        self.outcomes: dict[str, Outcome] = {}
        #: Those that run in the background, with what they print.
        self._early: dict[str, tuple[Running, IO[str]]] = {}
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.close()

    def climb(self) -> None:
        """Run the tiers and time them; a required tier in which no test ran counts as a failure."""
        for tier in self._wanted:
            say(f"\n=== {tier.name}: {tier.what}")
            self._start_what_goes_beside(tier)
            started = time.monotonic()
            if not has_tests(tier):
                outcome = Outcome(note="no tests yet")
            elif tier.name == "check":
                outcome = run_checks()
                outcome.seconds = time.monotonic() - started
            else:
                outcome = self._outcome(tier)
            if tier.name in self._required and not outcome.passed + outcome.failed:
                outcome.failed += 1
                outcome.note = f"required, but no test ran: {outcome.note or 'all were skipped'}"
            self.outcomes[tier.name] = outcome

    def _start_what_goes_beside(self, tier: Tier) -> None:
        """Start tiers whose turn is later; not where somebody looks at a few tests."""
        for other in self._wanted:
            if other.beside == tier.name and has_tests(other) and not self._options:
                file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 -- by the stack
                output = self._leave.enter_context(file)
                running = Running(other, [], output)
                self._leave.callback(running.stop)
                self._early[other.name] = running, output
                say(f"({other.name} runs beside it, and is shown later)")

    def _outcome(self, tier: Tier) -> Outcome:
        early = self._early.get(tier.name)
        if early is None:
            self._build(tier.programs)
            running = Running(tier, self._options)
            try:
                return running.wait()
            finally:
                running.stop()
        running, output = early
        outcome = running.wait()
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout)
        return outcome

    def _build(self, programs: tuple[str, ...]) -> None:
        for program in programs if os.geteuid() == 0 else ():
            try:
                if program in gotools.TOOLS:
                    gotools.tool_path(program)
                else:
                    kubetools.path(program)
            except (gotools.Unavailable, kubetools.Unavailable) as error:
                say(f"{program} cannot be had: {error}")  # the tests that need it skip themselves, and say so


def lab_engine() -> str:
    """Say what boots the lab's machines here, and why, or why nothing does; it is fetched and tried."""
    answer = subprocess.run(
        [str(PYTHON), str(TREE / "tools" / "lab.py"), "engine"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return (answer.stderr if answer.returncode else answer.stdout).strip().rpartition("\n")[2]


def report(outcomes: dict[str, Outcome]) -> bool:
    """Print a line per tier and the closing line; tell whether all is well."""
    say("\n=== tiers")
    for name, outcome in outcomes.items():
        say(
            f"{name:8} {outcome.passed:5} passed {outcome.failed:4} failed {outcome.skipped:4} skipped"
            f" {outcome.seconds:7.1f} s  {outcome.note}".rstrip()
        )
    total = list(outcomes.values())
    failed = sum(outcome.failed for outcome in total)
    say(
        f"{sum(outcome.passed for outcome in total)} passed, {failed} failed, "
        f"{sum(outcome.skipped for outcome in total)} skipped"
    )
    return failed == 0


def main() -> int:
    """Run the tiers asked for, in the order of the table."""
    arguments = sys.argv[1:]
    options: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, options = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tiers", nargs="*", metavar="tier", help=f"of: {' '.join(BY_NAME)}; default: all")
    parser.add_argument("--list", action="store_true", help="print the tiers that have tests")
    asked = parser.parse_args(arguments)
    if asked.list:
        say(" ".join(tier.name for tier in TIERS if has_tests(tier)))
        return 0
    required = set(os.environ.get("KATACSI_REQUIRE", "").replace(",", " ").split())
    if unknown := sorted({*asked.tiers, *required} - set(BY_NAME)):
        parser.error(f"no such tier: {' '.join(unknown)}; there are: {' '.join(BY_NAME)}")
    wanted = [tier for tier in TIERS if not asked.tiers or tier.name in asked.tiers]
    if BY_NAME["lab"] in wanted:
        say(f"the lab's engine: {lab_engine()}")
    with Ladder(wanted, options, required) as ladder:
        try:
            ladder.climb()
        except KeyboardInterrupt:
            say("\ninterrupted")
            report(ladder.outcomes)
            return 130
    return 0 if report(ladder.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
