"""What the crash tests have to say at the end: the table of boundaries, seeds and numbers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = pytest.StashKey[defaultdict[str, defaultdict[str, float]]]()
_NOTES = pytest.StashKey[list[str]]()


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Callable[..., None]:
    """Note a row of the table, or more columns of one: `table("publish", steps=23, retried=46, ...)`."""
    rows = pytestconfig.stash.setdefault(_ROWS, defaultdict(lambda: defaultdict(float)))

    def note(name: str, *, steps: int, seconds: float, **crashes: int) -> None:
        row = rows[name]
        row["steps"] = steps
        row["seconds"] += seconds
        for column, number in crashes.items():
            row[column] = number

    return note


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end of the run, however the test ends."""
    notes = request.config.stash.setdefault(_NOTES, [])
    return lambda text: notes.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print at how many places the driver was killed, and what tests have noted."""
    if notes := config.stash.get(_NOTES, None):
        terminalreporter.section("many lives at once", "-")
        for line in notes:
            terminalreporter.line(line)
    rows = config.stash.get(_ROWS, None)
    if not rows:
        return
    terminalreporter.section("steps at which the driver was killed", "-")
    head = f"{'call':24}{'steps':>7}{'retried':>9}{'turned back':>13}{'seconds':>9}"
    terminalreporter.line(head)
    total: defaultdict[str, float] = defaultdict(float)
    for name, row in rows.items():
        terminalreporter.line(_line(name, row))
        for column, number in row.items():
            total[column] += number
    terminalreporter.line(_line("in all", total))


def _line(name: str, row: dict[str, float]) -> str:
    return f"{name:24}{row['steps']:7.0f}{row['retried']:9.0f}{row['turned_back']:13.0f}{row['seconds']:9.1f}"
