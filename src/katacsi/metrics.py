"""What katacsi counts for Prometheus, and the small HTTP server that shows it."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Refresh = Callable[[], Awaitable[None]]

#: A call that only looks takes milliseconds; one that makes or checks a filesystem takes minutes.
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one process; labels are in the order in which `labels()` takes them."""

    registry: CollectorRegistry
    rpc_seconds: Histogram  #: method, code
    rpcs_in_flight: Gauge
    command_seconds: Histogram  #: tool, outcome
    shim_seconds: Histogram  #: runtime, outcome
    pending_refusals: Counter  #: method
    formats: Counter  #: filesystem
    published_volumes: Gauge  #: mode
    pool_usable: Gauge  #: pool
    pool_available_bytes: Gauge  #: pool
    pending_growths: Gauge

    @classmethod
    def create(cls, version: str = "") -> Self:
        """Make all metrics in a registry of their own; `version` is the driver's."""
        # A timestamp beside every series doubles the page, and nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("katacsi_build", "The driver that runs here.", registry=registry).info(
            {"version": version, "python": platform.python_version()}
        )
        return cls(
            registry=registry,
            rpc_seconds=Histogram(
                "katacsi_rpc_duration_seconds",
                "How long CSI calls took, by method and gRPC status code.",
                ("method", "code"),
                buckets=_SECONDS,
                registry=registry,
            ),
            rpcs_in_flight=Gauge(
                "katacsi_rpcs_in_flight", "CSI calls that have not been answered.", registry=registry
            ),
            command_seconds=Histogram(
                "katacsi_host_command_duration_seconds",
                "How long host tools (mkfs, blkid, lvm) ran, by tool and outcome.",
                ("tool", "outcome"),
                buckets=_SECONDS,
                registry=registry,
            ),
            shim_seconds=Histogram(
                "katacsi_shim_request_duration_seconds",
                "How long Kata's shims took to answer about a volume, by runtime and outcome.",
                ("runtime", "outcome"),
                buckets=_SECONDS,
                registry=registry,
            ),
            pending_refusals=Counter(
                "katacsi_pending_refusals",
                "CSI calls refused because another one works on the same volume, by method.",
                ("method",),
                registry=registry,
            ),
            formats=Counter(
                "katacsi_formats", "Filesystems made, by type.", ("filesystem",), registry=registry
            ),
            published_volumes=Gauge(
                "katacsi_published_volumes",
                "Volumes published on this node, by mode; direct ones have a record for Kata.",
                ("mode",),
                registry=registry,
            ),
            pool_usable=Gauge(
                "katacsi_pool_usable",
                "1 if a pool's storage can be used, else 0.",
                ("pool",),
                registry=registry,
            ),
            pool_available_bytes=Gauge(
                "katacsi_pool_available_bytes",
                "Room for new volumes in a pool.",
                ("pool",),
                registry=registry,
            ),
            pending_growths=Gauge(
                "katacsi_pending_growths",
                "Volumes that have grown and whose guest sees it after the pod's next start.",
                registry=registry,
            ),
        )


# -- the page ------------------------------------------------------------------------------------------

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
