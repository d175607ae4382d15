"""What a connection writes is gathered for a turn of the event loop, and nothing of it is lost or late."""

from __future__ import annotations

import asyncio

import pytest
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame

from katacsi.rpc.transport import _SEND_AT_BYTES, GatheringTransport


class Beneath(asyncio.Transport):
    """A transport that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes | str] = []

    def write(self, data) -> None:
        self.asked.append(bytes(data))

    def close(self) -> None:
        self.asked.append("close")

    def abort(self) -> None:
        self.asked.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.asked or "abort" in self.asked

    def get_extra_info(self, name, default=None):
        return {"peername": "x"}.get(name, default)


@pytest.fixture
async def beneath():
    return Beneath()


@pytest.fixture
async def transport(beneath):
    return GatheringTransport(beneath)


async def test_one_turn_is_one_write(transport, beneath):
    """What tasks that are ready together write is sent in one piece and in its order, in the next turn."""

    async def task(data: bytes) -> None:
        transport.write(data)

    tasks = [asyncio.create_task(task(data)) for data in (b"headers", b" message", b" trailers")]
    await asyncio.gather(*tasks)
    assert beneath.asked == [b"headers message trailers"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert beneath.asked[1:] == [b"next"]


async def test_an_answer_is_sent_with_its_end(transport, beneath):
    """Trailers wait for no other turn of the event loop; what ends no stream does, whatever it looks like."""
    headers, message, trailers = (
        HeadersFrame(1, b"h", flags=["END_HEADERS"]).serialize(),
        DataFrame(1, b"message").serialize(),
        HeadersFrame(1, b"t", flags=["END_HEADERS", "END_STREAM"]).serialize(),
    )
    transport.write(headers)
    transport.write(message)
    assert beneath.asked == []
    transport.write(trailers)
    assert beneath.asked == [headers + message + trailers]
    for other in (
        b"",
        b"\0\0\0\1",
        DataFrame(1, b"", flags=["END_STREAM"]).serialize(),
        PingFrame(0).serialize(),
    ):
        transport.write(other)
    assert len(beneath.asked) == 1
    await asyncio.sleep(0)
    assert len(beneath.asked) == 2


async def test_much_is_passed_on_at_once(transport, beneath):
    """More than a transport buffers before it complains is not held back, so a slow client is noticed."""
    transport.write(b"a")
    transport.write(b"b" * _SEND_AT_BYTES)
    assert [len(data) for data in beneath.asked] == [_SEND_AT_BYTES + 1]
    transport.write(b"c")
    await asyncio.sleep(0)
    assert beneath.asked[1:] == [b"c"]


async def test_closing_sends_what_was_written(transport, beneath):
    """The last answer is sent before the end, and nothing after it."""
    transport.write(b"last")
    transport.close()
    assert transport.is_closing()
    transport.write(b"late")
    await asyncio.sleep(0)
    assert beneath.asked == [b"last", "close"]


async def test_aborting_sends_nothing(transport, beneath):
    """What a client does not read is dropped."""
    transport.write(b"unread")
    transport.abort()
    await asyncio.sleep(0)
    assert beneath.asked == ["abort"]


async def test_the_rest_is_as_beneath(transport, beneath):
    """Who the peer is does not change."""
    assert transport.get_extra_info("peername") == "x"
    assert transport.get_extra_info("other", 1) == 1
    assert not transport.is_closing()
