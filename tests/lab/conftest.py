"""Hands the tests below inside/ to the lab's machines; in such a machine, sends their reports home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import lab_guest, lab_host

INSIDE = Path(__file__).resolve().parent / "inside"
#: Set in the machine: where its reports go.
REPORTS = os.environ.get("LAB_REPORTS")

MACHINES = pytest.StashKey[lab_host.Machines]()


def pytest_configure(config: pytest.Config) -> None:
    """In the machine: report."""
    if REPORTS:
        config.pluginmanager.register(lab_guest.Reporter(config, Path(REPORTS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the machine keep the time of its tests: here it would count from when they are waited for."""
    for item in items:
        if _is_handed_over(item):
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Report a test of the machine, or skip it when there is no machine."""
    if not _is_handed_over(item):
        return None
    config = item.config
    engine = lab_host.engine_of(item)
    if not engine.name and not lab_host.is_required():
        item.add_marker(pytest.mark.skip(reason=engine.why))
        return None
    if MACHINES not in config.stash:
        items = [each for each in item.session.items if _is_handed_over(each)]
        config.stash[MACHINES] = lab_host.Machines(config, items)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in config.stash[MACHINES].reports_of(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how long each file took, and where."""
    if MACHINES in config.stash:
        for standstill in config.stash[MACHINES].standstills:
            terminalreporter.line(f"STANDSTILL: {standstill}", yellow=True)
        terminalreporter.section("seconds in the lab's machines")
        for file, (machine, seconds) in sorted(config.stash[MACHINES].seconds().items()):
            terminalreporter.line(f"{seconds:7.1f}  {machine:17}  {file}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the machines."""
    if MACHINES in session.config.stash:
        session.config.stash[MACHINES].stop()


def _is_handed_over(item: pytest.Item) -> bool:
    return not REPORTS and item.path.is_relative_to(INSIDE)
