"""The small client of the demo and the tests."""

from __future__ import annotations

import asyncio

import pytest

from katacsi import errors
from katacsi.csi.client import Client, RpcError, csi
from support.door import serving


async def test_failure_surfaces_as_code_and_words(tmp_path):
    """A refused call raises one kind of error, with the code's name and the driver's words."""
    async with serving(tmp_path / "s") as driver, Client(driver.path) as client:
        driver.workflows.answers["provisioning.get"] = errors.NotFound("volume v: absent")
        with pytest.raises(RpcError) as caught:
            await client.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"))
    assert (caught.value.code, caught.value.message) == ("NOT_FOUND", "volume v: absent")


async def test_nobody_there_is_unavailable(tmp_path):
    """A socket that nobody serves raises the same kind of error as a driver that refuses."""
    async with Client(tmp_path / "absent") as client:
        with pytest.raises(RpcError) as caught:
            await client.identity.probe(csi.ProbeRequest())
    assert caught.value.code == "UNAVAILABLE"


async def test_default_time_limit_holds(tmp_path):
    """A call that never ends is given up after the client's own limit."""
    async with serving(tmp_path / "s") as driver, Client(driver.path, timeout_s=0.1) as client:
        driver.hold("provisioning.get")
        with pytest.raises(RpcError) as caught:
            await client.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"))
    assert caught.value.code == "DEADLINE_EXCEEDED"


async def test_waits_for_a_driver_that_is_starting(tmp_path):
    """Waiting spans the time in which the driver does not listen yet."""
    async with Client(tmp_path / "s") as client:
        waiting = asyncio.create_task(client.wait_ready(5))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        async with serving(tmp_path / "s"):
            await waiting


async def test_waiting_ends_with_what_was_wrong_last(tmp_path):
    """A driver that never answers is reported as such after the time given."""
    async with Client(tmp_path / "s") as client:
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            await client.wait_ready(0.2)
