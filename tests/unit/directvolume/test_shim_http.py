"""HTTP as far as shims speak it: whole answers are read, and nothing else is taken for one."""

import asyncio
import time

import pytest

from katacsi.directvolume.shim_http import MAX_BODY_BYTES, MAX_HEAD_BYTES, request
from katacsi.errors import Unavailable


@pytest.fixture
async def answering(shims):
    """Have a server that sends these bytes and closes; give its socket and what it was sent."""
    socket = shims.folder / "s"
    sent, servers, handlers = [], [], []

    async def start(answer, *, then=lambda _: asyncio.sleep(0)):
        async def connected(reader, writer):
            handlers.append(asyncio.current_task())
            try:
                sent.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
                await then(writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        servers.append(await asyncio.start_unix_server(connected, socket))
        return socket, sent

    yield start
    for server in servers:
        server.close()
    for handler in handlers:
        handler.cancel()
    await asyncio.gather(*handlers, return_exceptions=True)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (HEAD + b"Content-Length: 4\r\n\r\nbody and more", 200, b"body"),
        (HEAD + b"content-length: 0\r\n\r\n", 200, b""),
        (HEAD + b"\r\nuntil it closes", 200, b"until it closes"),
        (b"HTTP/1.0 500 Internal Server Error\r\n\r\nno", 500, b"no"),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", 200, b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\nx", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx", 200, b"x"),
        (
            CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            b"abc0123456789",
        ),
    ],
    ids=["length", "empty", "until-close", "1.0", "no-reason", "204", "100", "chunked"],
)
async def test_a_whole_answer_is_read(answering, answer, status, body):
    """Each way in which HTTP marks the end of a body."""
    socket, _ = await answering(answer)
    response = await request(socket, "GET", "/x", timeout_s=5)
    assert (response.status, response.body) == (status, body)


async def test_what_is_sent(answering):
    """One request for one connection, with the headers that both servers want."""
    socket, sent = await answering(HEAD + b"\r\n")
    await request(socket, "GET", "/x?path=%252F", timeout_s=5)
    await request(socket, "POST", "http://shim/y", b"{}", timeout_s=5)
    assert sent == [
        b"GET /x?path=%252F HTTP/1.1\r\nHost: shim\r\nConnection: close\r\n\r\n",
        (
            b"POST http://shim/y HTTP/1.1\r\nHost: shim\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        ),
    ]


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "not all of it"),
        (HEAD + b"Content-Length: 9\r\n\r\nhalf", "in the middle"),
        (CHUNKED + b"9\r\nhalf", "in the middle"),
        (CHUNKED + b"4\r\nhalf\r\n", "in the middle"),
        (CHUNKED + b"4\r\nhalfXX0\r\n\r\n", "does not end where"),
        (CHUNKED + b"-4\r\nhalf\r\n", "no length"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\nx", "encoded as gzip"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "two content-length"),
        (HEAD + b"Content-Length: -1\r\n\r\nx", "length of '-1'"),
        (HEAD + b"Content-Length: 9999999999\r\n\r\nx", "longer than"),
        (HEAD + b"\r\n" + b"x" * (MAX_BODY_BYTES + 1), "longer than"),
        (CHUNKED + b"FFFFFFFF\r\n", "longer than"),
        (HEAD + b"X: " + b"x" * MAX_HEAD_BYTES, "does not end"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "no HTTP"),
        (bytes(range(256)) * 4, "no HTTP"),
    ],
)
async def test_a_broken_answer_is_an_error(answering, answer, fact):
    """Half an answer, none, a huge one and none that is HTTP: each is named, and nothing of it is used."""
    socket, _ = await answering(answer)
    with pytest.raises(Unavailable, match=fact):
        await request(socket, "GET", "/x", timeout_s=5)


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + b"Content-Length: 9\r\n\r\nhalf", HEAD + b"\r\nhalf"])
async def test_a_server_that_hangs_is_left(answering, answer):
    """The deadline holds at every point of the answer, and its connection is given up."""
    gone = asyncio.Event()
    socket, _ = await answering(answer, then=lambda _: gone.wait())
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"within 0\.1 s"):
        await request(socket, "GET", "/x", timeout_s=0.1)
    assert time.monotonic() - began < 3
    gone.set()


async def test_a_server_that_dribbles_is_left(answering):
    """A byte now and then does not keep the question open: the deadline is for all of it."""

    gone = asyncio.Event()

    async def dribble(writer):
        while not gone.is_set():
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    socket, _ = await answering(HEAD, then=dribble)
    with pytest.raises(Unavailable, match="within"):
        await request(socket, "GET", "/x", timeout_s=0.1)
    gone.set()


async def test_nobody_listens(shims, answering):
    """No socket, a dead one, and a path that is too long for one: unavailable, by path."""
    with pytest.raises(Unavailable, match="No such file"):
        await request(shims.folder / "none", "GET", "/x", timeout_s=5)
    await shims.crash("dead")
    with pytest.raises(Unavailable, match="refused"):
        await request(shims.go / "dead" / "shim-monitor.sock", "GET", "/x", timeout_s=5)
    with pytest.raises(Unavailable, match="too long"):
        await request(shims.folder / ("x" * 200), "GET", "/x", timeout_s=5)


async def test_a_cancelled_question_leaves_no_connection(answering):
    """A call that is given up does not keep the shim busy."""
    gone, asked = asyncio.Event(), asyncio.Event()

    async def wait(_):
        asked.set()
        await gone.wait()

    socket, _ = await answering(HEAD, then=wait)
    question = asyncio.create_task(request(socket, "GET", "/x", timeout_s=60))
    await asked.wait()
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    gone.set()
