"""The metrics page, and beside it `/healthz`, which says no more than that the event loop turns."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

from katacsi.httpserver import Answer, HttpServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from prometheus_client import CollectorRegistry

    from katacsi.httpserver import Page, Request

    Refresh = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    pass


async def serve_metrics(
    registry: CollectorRegistry,
    host: str,
    port: int,
    *,
    timeout_s: float = 5.0,
    refresh: Refresh = _nothing,
    pages: Mapping[str, Page] = MappingProxyType({}),
) -> HttpServer:
    """Serve a registry's page at an address; the result knows its `port` and has an `async close()`.

    Args:
        registry: what to show.
        host: an address of this machine; empty for all.
        port: 0 takes a free one.
        timeout_s: how long one connection may last.
        refresh: called before each page, to set the gauges of what is true now.
        pages: what else is answered there, by path.
    """
    own: dict[str, Page] = {"/metrics": partial(_metrics, registry, refresh), "/healthz": _alive}
    server = HttpServer({**own, **pages}, timeout_s)
    await server.start(host, port)
    return server


async def _metrics(registry: CollectorRegistry, refresh: Refresh, request: Request) -> Answer:
    await refresh()
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
    except (TypeError, ValueError):  # a version that is no number
        return Answer(status=HTTPStatus.BAD_REQUEST)
    return Answer(encode(registry), content_type=content_type)


async def _alive(request: Request) -> Answer:
    del request
    return Answer(b"ok\n")
