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
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gotools

TREE = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)  # not resolved: the link in .venv/bin is what makes it the venv's Python

SCRIPTS = ("bootstrap", "guest_init", "lab_inside", "lab_qemu_init", "lab_uml_init")

# Each line counts as one test. `make fmt` mends the second, `make generate` the last but one.
CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    ("lint-imports", "--no-logo"),
    ("python", "tools/generate.py", "--check"),
    ("bash", "-n", *(f"tools/{name}.sh" for name in SCRIPTS), ".ci/run"),
)


@dataclass(frozen=True)
class Tier:
    """A rung of the ladder: which folders under tests/ it runs, and what it needs for that."""

    name: str
    what: str
    folders: tuple[str, ...]
    root: bool = False
    programs: tuple[str, ...] = ()
    """Go programs of tools/gotools.py, built before pytest starts so that no test's timeout pays for it."""
    spread: bool = False
    """Whether its files are spread over all processors: they share nothing, and do nothing but compute."""
    limit_s: int = 900
    """A tier that hangs is ended after this long and counts as failed, so that the others still run."""


# In the order they run: the cheap ones first. A later tier is a line here and a folder under tests/.
TIERS = (
    Tier("check", "lint, format, types, import contracts, generated files", ()),
    Tier("unit", "pure parts, no root", ("unit",), spread=True),
    Tier("rpc", "the services over an in-memory channel", ("rpc",)),
    Tier("host", "loop devices, mounts and mkfs on this machine", ("host",), root=True, limit_s=1800),
    Tier(
        "sanity",
        "the csi-sanity suite against the running driver",
        ("sanity",),
        root=True,
        programs=("csi-sanity",),
        limit_s=1800,
    ),
    Tier("crash", "SIGKILL at every step, then a retry", ("crash",), root=True, limit_s=1800),
    Tier(
        "lab",
        "real device-mapper, in machines of its own (user-mode Linux, QEMU)",
        ("lab",),
        programs=("csi-sanity",),
        limit_s=2700,
    ),
    Tier(
        "guest",
        "volumes as a guest sees them: hot-plug, growth, power cuts (QEMU)",
        ("guest",),
        root=True,
        limit_s=1800,
    ),
)
BY_NAME = {tier.name: tier for tier in TIERS}


@dataclass
class Outcome:
    """What came of a tier."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    note: str = ""


def say(text: str = "") -> None:
    """Print at once: the subprocesses write to the same stream."""
    print(text, flush=True)


def folders(tier: Tier) -> list[Path]:
    """Return the folders of a tier that hold tests."""
    return [folder for name in tier.folders if any((folder := TREE / "tests" / name).rglob("test_*.py"))]


def has_tests(tier: Tier) -> bool:
    """Tell whether there is anything to run; the checks always are."""
    return tier.name == "check" or bool(folders(tier))


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


def run_pytest(tier: Tier, options: list[str]) -> Outcome:
    """Run pytest on the folders of a tier and read its counts from the plugin's file."""
    for program in tier.programs if os.geteuid() == 0 else ():
        try:
            gotools.tool_path(program)
        except gotools.Unavailable as error:
            say(f"{program} cannot be had: {error}")  # the tests that need it skip themselves, and say so
    with tempfile.TemporaryDirectory(prefix="katacsi-counts-") as scratch:
        counts = Path(scratch) / "counts.json"
        environment = os.environ | {
            "KATACSI_COUNTS": str(counts),
            "PYTHONPATH": str(TREE / "tools"),
            "PYTHONUNBUFFERED": "1",
        }
        argv = [str(PYTHON), "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_counts"]
        if tier.spread and not options:  # who has wishes wants few tests, or a debugger
            argv += ["--numprocesses", str(os.cpu_count() or 1), "--dist", "loadfile"]
        code = _run_with_limit([*argv, *map(str, folders(tier)), *options], environment, tier.limit_s)
        try:
            outcome = Outcome(**json.loads(counts.read_text("utf-8")))
        except (OSError, ValueError):
            outcome = Outcome()
    if code is None:
        outcome.failed += 1
        outcome.note = f"ended after {tier.limit_s} s"
    elif code not in (0, 5) and not outcome.failed:  # 5: pytest collected nothing
        outcome.failed += 1
        outcome.note = f"pytest ended with code {code}"
    if tier.root and os.geteuid() != 0:
        outcome.note = f"needs root: sudo make test TIER={tier.name}"
    return outcome


def _run_with_limit(argv: list[str], environment: dict[str, str], limit_s: int) -> int | None:
    """Run a command in a process group of its own; return its exit code, or None when it had to be ended."""
    with subprocess.Popen(
        argv, cwd=TREE, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(limit_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
            # SIGINT first: fixtures then unmount and detach what the tests left.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(stop, KeyboardInterrupt):
                raise
            return None


def run(tier: Tier, options: list[str], *, required: bool) -> Outcome:
    """Run a tier and time it; a required tier in which no test ran counts as a failure."""
    say(f"\n=== {tier.name}: {tier.what}")
    started = time.monotonic()
    if not has_tests(tier):
        outcome = Outcome(note="no tests yet")
    elif tier.name == "check":
        outcome = run_checks()
    else:
        outcome = run_pytest(tier, options)
    outcome.seconds = time.monotonic() - started
    if required and not outcome.passed + outcome.failed:
        outcome.failed += 1
        outcome.note = f"required, but no test ran: {outcome.note or 'all were skipped'}"
    return outcome


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
    outcomes: dict[str, Outcome] = {}
    if BY_NAME["lab"] in wanted:
        say(f"the lab's engine: {lab_engine()}")
    try:
        for tier in wanted:
            outcomes[tier.name] = run(tier, options, required=tier.name in required)
    except KeyboardInterrupt:
        say("\ninterrupted")
        report(outcomes)
        return 130
    return 0 if report(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
