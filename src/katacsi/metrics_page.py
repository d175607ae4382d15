"""The metrics page: a small HTTP server in the event loop, which is also what a liveness probe asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry

    Refresh = Callable[[], Awaitable[None]]

#: Prometheus sends some 500 bytes; what is larger is not a scrape.
MAX_REQUEST_BYTES = 8192

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


class MetricsServer:
    """Answers `GET /metrics` and `GET /healthz`, one request a connection; close it with `close`.

    It runs in the event loop, without a thread: that it answers at all says that the loop turns.
    """

    def __init__(self, registry: CollectorRegistry, timeout_s: float, refresh: Refresh) -> None:
        self._registry = registry
        self._refresh = refresh
        self._timeout_s = timeout_s
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; an empty host is every address, port 0 a free one."""
        self._server = await asyncio.start_server(
            self._connected, host or None, port, limit=MAX_REQUEST_BYTES
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening and end the connections that are open."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.transport.abort()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            # A client that sends or takes its bytes one by one does not keep its place.
            async with asyncio.timeout(self._timeout_s):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):  # gone, or too slow (TimeoutError)
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(431)
        request, *lines = head.decode("latin-1").rstrip().split("\n")
        words = request.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400)
        method, path, _ = words
        if method != "GET":
            return _response(405)
        match path.partition("?")[0]:
            case "/metrics":
                await self._refresh()
                return self._page(_header(lines, "accept"))
            case "/healthz":
                return _response(200, b"ok\n")
            case _:
                return _response(404)

    def _page(self, accept: str) -> bytes:
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number
            return _response(400)
        return _response(200, encode(self._registry), content_type)


async def _nothing() -> None:
    pass


async def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, *, timeout_s: float = 5.0, refresh: Refresh = _nothing
) -> MetricsServer:
    """Serve a registry's page at an address; the result knows its `port` and has an `async close()`.

    Args:
        registry: what to show.
        host: an address of this machine; empty for all.
        port: 0 takes a free one.
        timeout_s: how long one connection may last.
        refresh: called before each page, to set the gauges of what is true now.
    """
    server = MetricsServer(registry, timeout_s, refresh)
    await server.start(host, port)
    return server


def _header(lines: list[str], name: str) -> str:
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _response(status: int, body: bytes = b"", content_type: str = "text/plain; charset=utf-8") -> bytes:
    reason = _REASONS[status]
    body = body or f"{reason}\n".encode()
    headers: Mapping[str, str] = {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode("latin-1", "replace") + body
