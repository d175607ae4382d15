"""A driver as a process, as tests, the demo and the benchmarks run it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from katacsi.csi.client import Client, csi
from katacsi.testing.process import DriverFailed, DriverProcess, ServeProcess


async def test_a_driver_answers_once_it_has_started_and_after_a_crash(tmp_path):
    """`start` returns when Probe is answered, also in an event loop; the same client reaches the next one."""
    driver = ServeProcess(tmp_path, settings={"driver_name": "test.katacsi.io"})
    with driver:
        async with Client(driver.socket) as client:
            assert (await client.identity.get_plugin_info(csi.GetPluginInfoRequest())).name
            await asyncio.to_thread(driver.kill)
            assert not driver.runs
            driver.start()
            await asyncio.sleep(0.01)  # while it blocked, the loop has not heard of the end of the connection
            answer = await client.identity.get_plugin_info(csi.GetPluginInfoRequest())
    assert answer.name == "test.katacsi.io"
    assert driver.process.returncode == 0


def test_a_driver_that_does_not_start_says_why(tmp_path):
    """The error has the exit code, and its note the driver's own words."""
    driver = ServeProcess(tmp_path, settings={"driver_nam": "x"})
    with pytest.raises(DriverFailed, match="ended with exit code 2 while it started") as failed:
        driver.start()
    assert "driver_nam" in failed.value.__notes__[0]


def test_a_driver_that_does_not_end_is_killed(tmp_path, monkeypatch):
    """Whoever waits for a driver that hangs is told so, and it does not stay."""
    monkeypatch.setattr("katacsi.testing.process._STOP_S", 0.2)
    hangs = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
        "time.sleep(60)"
    )
    driver = DriverProcess(
        [sys.executable, "-c", hangs],
        socket=tmp_path / "csi.sock",
        log=tmp_path / "log",
    )
    driver.spawn()
    while driver.tail() != ["up"]:
        assert driver.runs
    with pytest.raises(DriverFailed, match="did not end within 0 s of SIGTERM"):
        driver.stop()
    assert driver.process.returncode == -signal.SIGKILL


def test_the_shells_settings_do_not_reach_a_driver(tmp_path, monkeypatch):
    """A variable that is meant for the user's own driver changes nothing here."""
    monkeypatch.setenv("KATACSI_DRIVER_NAME", "not a legal name")
    with ServeProcess(tmp_path) as driver:
        assert driver.runs


def test_what_the_demo_uses_needs_no_pytest():
    """A node has none; only the conformance suite imports it."""
    program = "import sys, katacsi.demo.command; print([name for name in sys.modules if 'pytest' in name])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
