"""One HTTP/1.1 request to a unix socket, and its answer: as much of HTTP as Kata's shims speak.

A shim answers a request in one go, so there is one connection a request. Whatever else comes (a closed
connection, half an answer, more than fits, no HTTP at all) is one error that says so: nothing of a broken
answer is used.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

#: What a shim says about one volume has some 400 bytes; an error's text may be longer.
MAX_BODY_BYTES = 256 << 10
MAX_HEAD_BYTES = 16 << 10

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\Z)")
_LENGTH = re.compile(r"[0-9]{1,15}\Z", re.ASCII)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;.*)?\r\n\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes


async def request(
    socket: Path, method: str, target: str, body: bytes | None = None, *, timeout_s: float
) -> Response:
    """Send one request and read its whole answer.

    Args:
        socket: where the server listens.
        method: such as GET.
        target: the request target, percent-encoded; the absolute form is sent as it is.
        body: JSON, or `None` for none.
        timeout_s: how long all of it may take.

    Raises:
        Unavailable: nobody listens, no answer in time, or none that can be used.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(socket, _bytes(method, target, body))
    except TimeoutError as error:
        raise Unavailable(f"{socket}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise Unavailable(f"{socket}: cannot be asked: {error.strerror or error}") from error
    except _Unusable as error:
        raise Unavailable(f"{socket}: {error}") from error


class _Unusable(Exception):
    """What came is no answer; the text says what it was instead."""


def _bytes(method: str, target: str, body: bytes | None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: shim", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")


async def _exchange(socket: Path, sent: bytes) -> Response:
    reader, writer = await asyncio.open_unix_connection(socket, limit=MAX_HEAD_BYTES)
    try:
        writer.write(sent)
        await writer.drain()
        return await _response(reader)
    finally:
        writer.transport.abort()


async def _response(reader: asyncio.StreamReader) -> Response:
    while True:
        status, headers = await _head(reader)
        if status >= 200:  # 1xx: the answer is still to come
            return Response(status, await _body(reader, status, headers))


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _Unusable("the answer's head does not end") from error
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise _Unusable("the connection was closed without an answer") from error
        raise _Unusable("what came is no HTTP, or not all of it") from error
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    if not (found := _STATUS.match(first)):
        raise _Unusable("what came is no HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        if (name := name.strip().lower()) in headers and name in ("content-length", "transfer-encoding"):
            raise _Unusable(f"the answer has two {name}")
        headers[name] = value.strip()
    return int(found[1]), headers


async def _body(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
    if status in (204, 304):
        return b""
    encoding, length = headers.get("transfer-encoding", "").lower(), headers.get("content-length")
    try:
        if encoding:
            if encoding != "chunked":
                raise _Unusable(f"the answer is encoded as {encoding}")
            return await _chunks(reader)
        if length is None:
            return await _rest(reader)
        if not _LENGTH.match(length):
            raise _Unusable(f"the answer has a length of {length!r}")
        _check_room(int(length))
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as error:
        raise _Unusable("the connection was closed in the middle of the answer") from error


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError as error:
            raise _Unusable("a chunk of the answer has no length") from error
        if not (found := _CHUNK.match(line)):
            raise _Unusable("a chunk of the answer has no length")
        size = int(found[1], 16)
        _check_room(len(body) + size)
        if size == 0:
            return bytes(body)  # trailers say nothing about a volume
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise _Unusable("a chunk of the answer does not end where it says")


async def _rest(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while part := await reader.read(MAX_HEAD_BYTES):
        body += part
        _check_room(len(body))
    return bytes(body)


def _check_room(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise _Unusable(f"the answer is longer than {MAX_BODY_BYTES} bytes")
