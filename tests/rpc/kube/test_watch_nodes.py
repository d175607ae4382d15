"""`katacsi watch-nodes` as operators run it: a process, with a kubeconfig, until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, TypeVar

import pytest
import yaml

from katacsi.kube import paths
from support import stranded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

T = TypeVar("T")

PV = paths.persistent_volume("pv-1")


class Process:
    """The process, and what it logged so far."""

    def __init__(self, config: Path) -> None:
        self._log = config.with_suffix(".log")
        command = [sys.executable, "-m", "katacsi", "watch-nodes", "--config", str(config)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stderr=output)

    @property
    def lines(self) -> list[dict]:
        """Return the lines of its log."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    async def logged(self, event: str) -> dict:
        """Wait for a line of the log."""
        return await eventually(lambda: next((line for line in self.lines if line["event"] == event), None))

    async def page(self, name: str, path: str) -> str:
        """Get a page of the process."""
        port = (await self.logged(name))["port"]
        url = f"http://127.0.0.1:{port}{path}"
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())

    async def end(self) -> int:
        """Wait for its end; give the exit code."""
        return await asyncio.to_thread(self._process.wait, 60)

    async def stop(self) -> int:
        """Send SIGTERM; give the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self.end()


async def eventually(look: Callable[[], T | None]) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < deadline, "nothing to be seen within a minute"
        await asyncio.sleep(0.05)
    return seen


@pytest.fixture
async def start(server, tmp_path: Path) -> AsyncIterator:
    """Give what starts the process, with settings for `watch_nodes`."""
    server.lists |= {paths.persistent_volumes(), paths.nodes(), paths.storage_capacities("katacsi")}
    server.objects[PV] = stranded.volume(phase="Bound")
    server.objects[paths.node("node-2")] = stranded.node("node-2")
    kubeconfig = server.write_kubeconfig()
    started: list[Process] = []

    async def start(**settings) -> Process:
        config = tmp_path / "config.yaml"
        content = {
            "driver_name": stranded.DRIVER,
            "log": {"format": "json"},
            "kube": {"kubeconfig": str(kubeconfig), "timeout": 5},
            "metrics": {"address": "127.0.0.1:0"},
            "health": {"address": "127.0.0.1:0"},
            "watch_nodes": {"interval": 0.1, "grace": 0.3, "namespace": "katacsi", **settings},
        }
        config.write_text(yaml.safe_dump(content))
        started.append(Process(config))
        return started[-1]

    yield start
    for process in started:
        await process.stop()


async def test_a_gone_node_becomes_events_on_the_volume_and_its_claim(server, start):
    """The whole way: a look, the grace period, two Events of the driver's, pages, and a clean end."""
    process = await start()
    await eventually(lambda: len(server.bodies) == 2)
    assert await process.page("health", "/healthz") == "ok\n"
    page = await process.page("metrics", "/metrics")
    assert await process.stop() == 0
    assert {line["event"] for line in process.lines} >= {"watching nodes", "node is absent", "stopped"}
    assert [event["regarding"]["kind"] for event in server.bodies] == [
        "PersistentVolume",
        "PersistentVolumeClaim",
    ]
    assert {event["reason"] for event in server.bodies} == {"NodeGone"}
    assert {event["reportingController"] for event in server.bodies} == {stranded.DRIVER}
    assert "katacsi_nodes_gone 1.0" in page
    assert 'katacsi_volumes_of_gone_nodes{phase="Bound"} 1.0' in page
    assert "katacsi_kube_request_duration_seconds" in page


async def test_it_releases_what_nobody_can_delete(server, start):
    """With the operator's word the object is gone from the API, and the log has the volume's id."""
    server.objects[PV] = stranded.volume()
    process = await start(release=True)
    line = await process.logged("volume of a gone node released")
    assert line["volume_id"] == "v1:default:abcdef01:pv-1"
    assert server.objects[PV]["metadata"]["finalizers"] == [stranded.PROTECTION]


async def test_an_api_server_that_is_away_is_asked_again(server, start):
    """It starts without one, stays alive, says so, and goes on when the server is there."""
    await server.stop()
    process = await start()
    assert "cannot be reached" in (await process.logged("cannot look at the nodes"))["error"]
    assert await process.page("health", "/healthz") == "ok\n"
    await server.start()
    assert (await process.logged("node is absent"))["node"] == "node-1"


async def test_it_ends_at_once_in_the_midst_of_a_look(server, start):
    """A server that does not answer delays no SIGTERM."""
    server.hanging = True
    process = await start()
    await process.logged("watching nodes")
    started = time.monotonic()
    assert await process.stop() == 0
    assert time.monotonic() - started < 4


async def test_what_it_needs_to_know_is_asked_for_at_the_start(server, start):
    """Outside of a pod a release needs the namespace of the capacity objects; the setting is named."""
    process = await start(release=True, namespace=None)
    assert await process.end() == 2
