"""Machines of the lab that stand still: what they have not run is run by another one, once."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from support import lab_host

ENGINE = lab_host.Engine("uml", "a test")


@pytest.fixture
def started(monkeypatch):
    """Processes in place of machines; they say nothing."""
    processes = []

    def start(*_, **__):
        processes.append(popen(["sleep", "60"]))
        return processes[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(lab_host.subprocess, "Popen", start)
    monkeypatch.setattr(lab_host, "STANDSTILL_S", 0.1)
    monkeypatch.setattr(lab_host, "engine_of", lambda _: ENGINE)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_machine_that_stands_still_is_replaced_once(started):
    """Its tests go to a second machine, which is told; where that stands still, too, the test has failed."""
    machines = lab_host.Machines(SimpleNamespace(), [])
    boot = lab_host.Boot(("inside/a.py::one", "inside/a.py::two"), True, ENGINE, 0)
    machines._booted.append(lab_host._Machine(SimpleNamespace(), boot))
    item = SimpleNamespace(nodeid="inside/a.py::one", location=("inside/a.py", 1, "one"))
    (report,) = machines.reports_of(item)
    machines.stop()
    assert report.outcome == "failed"
    assert "the lab's machine ended before this test" in report.longrepr
    assert len(started) == 2
    told = "a machine (uml) stood still at inside/a.py::one; another one ran that and 1 more tests"
    assert machines.standstills == [told]
