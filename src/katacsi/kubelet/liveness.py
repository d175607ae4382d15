"""The page that a liveness probe asks, on a port of its own: whether the driver answers on its socket.

It stands in for the sidecar livenessprobe, and asks as that one does: Probe, by a new connection each time.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from katacsi.csi.client import Client, RpcError, csi
from katacsi.httpserver import Answer, HttpServer

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.httpserver import Request

#: Probe is answered from memory; a driver that takes longer does not get to its calls.
PROBE_TIMEOUT_S: Final = 3.0


async def serve_health(
    socket: Path, host: str, port: int, *, timeout_s: float = PROBE_TIMEOUT_S
) -> HttpServer:
    """Serve `/healthz` at an address; the result knows its `port` and has an `async close()`.

    Args:
        socket: the driver's own.
        host: an address of this machine; empty for all.
        port: 0 takes a free one.
        timeout_s: how long Probe may take.
    """
    # The page comes in any case: what takes too long is Probe, and then that is what it says.
    server = HttpServer({"/healthz": partial(_healthy, socket, timeout_s)}, timeout_s=timeout_s + 2)
    await server.start(host, port)
    return server


async def _healthy(socket: Path, timeout_s: float, request: Request) -> Answer:
    """Give 200 when the driver says that it is ready, else 503 with the reason."""
    del request
    try:
        async with Client(socket, timeout_s=timeout_s) as client:
            answer = await client.identity.probe(csi.ProbeRequest())
    except RpcError as error:
        return _unwell(f"Probe on {socket}: {error}")
    if answer.ready is False:
        return _unwell(f"Probe on {socket}: the driver says that it is not ready")
    return Answer(b"ok\n")


def _unwell(reason: str) -> Answer:
    return Answer(f"{reason}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)
