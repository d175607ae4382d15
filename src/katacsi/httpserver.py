"""A small HTTP server in the event loop: GET on a few paths, one request a connection.

It has no thread: that it answers at all says that the loop turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

#: Prometheus sends some 500 bytes; what is larger is nobody that is expected here.
MAX_REQUEST_BYTES: Final = 8192

PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says; without a body, the status in words."""

    body: bytes = b""
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = PLAIN
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """A GET: its query after the `?`, and its headers by their names in lower case."""

    query: str
    headers: Mapping[str, str]


Page = Callable[[Request], Awaitable[Answer]]


class HttpServer:
    """Answers GET for each path that has a page; close it with `close`.

    Args:
        pages: by path.
        timeout_s: how long one connection may last, with the making of its page.
    """

    def __init__(self, pages: Mapping[str, Page], timeout_s: float = 5.0) -> None:
        self._pages = pages
        self._timeout_s = timeout_s
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; an empty host is every address, port 0 a free one.

        Raises:
            OSError: nobody can listen there.
        """
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
                writer.write(_encoded(await self._answer(reader)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):  # gone, or too slow (TimeoutError)
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return Answer(status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        first, *lines = head.decode("latin-1").rstrip().split("\n")
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(status=HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        if method != "GET":
            return Answer(status=HTTPStatus.METHOD_NOT_ALLOWED)
        path, _, query = target.partition("?")
        page = self._pages.get(path)
        if page is None:
            return Answer(status=HTTPStatus.NOT_FOUND)
        return await page(Request(query, dict(_header(line) for line in lines)))


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _encoded(answer: Answer) -> bytes:
    body = answer.body or f"{answer.status.phrase}\n".encode()
    headers: Mapping[str, str] = {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **answer.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    status = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
    return f"{status}{head}\r\n".encode("latin-1", "replace") + body
