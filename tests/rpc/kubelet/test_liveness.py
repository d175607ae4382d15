"""The liveness page: what a probe hears of a driver that is well, hangs, is away, or is not ready."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from grpclib.server import Server

from katacsi._gen.csi import v1 as csi
from katacsi.kubelet.liveness import serve_health

if TYPE_CHECKING:
    from pathlib import Path


class Prober(csi.IdentityBase):
    """A driver that answers Probe as the test says, and nothing else."""

    ready: bool | None = True
    asked = 0

    async def probe(self, message: csi.ProbeRequest) -> csi.ProbeResponse:
        del message
        self.asked += 1
        return csi.ProbeResponse(ready=self.ready)


@pytest.fixture
async def driver(tmp_path):
    """One that serves at `tmp_path/csi.sock`."""
    prober = Prober()
    server = Server([prober])
    await server.start(path=str(tmp_path / "csi.sock"))
    yield prober
    server.close()
    await server.wait_closed()


async def ask(socket: Path, *, timeout_s: float = 3.0) -> tuple[int, str]:
    """Ask the page of the driver at this socket once: status and body."""
    page = await serve_health(socket, "127.0.0.1", 0, timeout_s=timeout_s)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        await writer.wait_closed()
    finally:
        await page.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("ready", [True, None], ids=["ready", "not said"])
async def test_a_driver_that_answers_is_well(driver, tmp_path, ready):
    """Each request asks Probe itself; CSI takes an answer without `ready` for ready."""
    driver.ready = ready
    assert await ask(tmp_path / "csi.sock") == (200, "ok\n")
    assert await ask(tmp_path / "csi.sock") == (200, "ok\n")
    assert driver.asked == 2


async def test_a_driver_that_is_not_ready_is_503(driver, tmp_path):
    """Its own word counts."""
    driver.ready = False
    status, body = await ask(tmp_path / "csi.sock")
    assert status == 503
    assert "not ready" in body


async def test_a_driver_without_a_socket_is_503_with_the_reason(tmp_path):
    """The kubelet writes the body into its event; it names the socket."""
    status, body = await ask(tmp_path / "csi.sock")
    assert status == 503
    assert str(tmp_path / "csi.sock") in body
    assert "UNAVAILABLE" in body


async def test_a_driver_that_hangs_is_503_in_time(tmp_path):
    """A socket that takes connections and never answers is found out within the timeout of Probe."""
    taken: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_unix_server(lambda _, writer: taken.append(writer), tmp_path / "csi.sock")
    try:
        before = time.monotonic()
        status, body = await ask(tmp_path / "csi.sock", timeout_s=0.3)
        took = time.monotonic() - before
    finally:
        hanging.close()
        for writer in taken:
            writer.close()
            await writer.wait_closed()
    assert status == 503
    assert "DEADLINE_EXCEEDED" in body
    assert took < 3
