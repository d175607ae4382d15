"""The small client of the demo and the tests."""

from __future__ import annotations

import asyncio
import time

import pytest

from katacsi import errors
from katacsi.csi.client import Client, RpcError, csi
from katacsi.csi.methods import METHODS, REDACTION
from katacsi.csi.services import services
from katacsi.metrics import Metrics
from katacsi.rpc.interceptor import Interceptor
from katacsi.rpc.server import DrainingServer
from support.door import ScriptedWorkflows


async def start(path, ready=lambda: True):
    workflows = ScriptedWorkflows()
    every = services(workflows, driver_name="d", version="1", ready=ready)
    server = DrainingServer(
        every, interceptor=Interceptor(Metrics.create(), METHODS, REDACTION), shielded=workflows.shielded
    )
    await server.listen(path)
    return server, workflows


async def test_failure_surfaces_as_code_and_words(tmp_path):
    """A refused call raises one kind of error, with the code's name and the driver's words."""
    server, workflows = await start(tmp_path / "s")
    workflows.answers["provisioning.get"] = errors.NotFound("volume v: absent")
    async with Client(tmp_path / "s") as client:
        with pytest.raises(RpcError) as caught:
            await client.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"))
    assert (caught.value.code, caught.value.message) == ("NOT_FOUND", "volume v: absent")
    await server.drain(1)


async def test_nobody_there_is_unavailable(tmp_path):
    """A socket that nobody serves raises the same kind of error as a driver that refuses."""
    async with Client(tmp_path / "absent") as client:
        with pytest.raises(RpcError) as caught:
            await client.identity.probe(csi.ProbeRequest())
    assert caught.value.code == "UNAVAILABLE"


async def test_default_time_limit_holds(tmp_path):
    """A call that never ends is given up after the client's own limit."""
    server, workflows = await start(tmp_path / "s")

    async def forever(*_):
        await asyncio.sleep(60)

    workflows.answers["provisioning.get"] = forever
    async with Client(tmp_path / "s", timeout_s=0.1) as client:
        with pytest.raises(RpcError) as caught:
            await client.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"))
    assert caught.value.code == "DEADLINE_EXCEEDED"
    await server.drain(1)


async def test_waits_for_a_driver_that_is_starting(tmp_path):
    """Waiting spans both: a driver that does not listen yet, and one whose pools are not open yet."""
    begin = time.monotonic()

    async def start_late():
        await asyncio.sleep(0.1)
        return await start(tmp_path / "s", ready=lambda: time.monotonic() > begin + 0.2)

    starting = asyncio.create_task(start_late())
    async with Client(tmp_path / "s") as client:
        await client.wait_ready(5)
        assert time.monotonic() > begin + 0.2
    server, _ = await starting
    await server.drain(1)


async def test_waiting_ends_with_what_was_wrong_last(tmp_path):
    """A driver that never gets ready is reported as such after the time given."""
    server, _ = await start(tmp_path / "s", ready=lambda: False)
    async with Client(tmp_path / "s") as client:
        with pytest.raises(RpcError, match="not ready"):
            await client.wait_ready(0.2)
    await server.drain(1)
