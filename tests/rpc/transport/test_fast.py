"""One write an answer and ready header blocks: nothing is lost or late, and callers read the same without."""

from __future__ import annotations

import asyncio

import hpack
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame

from katacsi import errors
from katacsi.backends.api import Volume
from katacsi.csi.client import csi
from katacsi.model import Condition, VolumeId
from katacsi.rpc import server
from katacsi.rpc.fast import _SEND_AT_BYTES, GatheringTransport, ReadyEncoder
from katacsi.volumes.requests import VolumePage, VolumeView
from support.door import serving
from support.plain_http2 import PlainClient, framed


class Beneath(asyncio.Transport):
    """A transport that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes | str] = []

    def write(self, data) -> None:
        self.asked.append(bytes(data))

    def close(self) -> None:
        self.asked.append("close")

    def is_closing(self) -> bool:
        return "close" in self.asked

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


async def test_the_rest_is_as_beneath(transport, beneath):
    """Who the peer is does not change."""
    assert transport.get_extra_info("peername") == "x"
    assert transport.get_extra_info("other", 1) == 1
    assert not transport.is_closing()


# -- header blocks --------------------------------------------------------------------------------------

HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
TRAILERS = [("grpc-status", "0")]


def test_every_connection_understands_the_ready_blocks():
    """In any order and number, from any state of its table, a decoder reads what was meant."""
    refusal = [("grpc-status", "9"), ("grpc-message", "in use")]
    for blocks in ([HEADERS, TRAILERS] * 3, [refusal, TRAILERS, refusal, HEADERS], [TRAILERS, refusal]):
        encoder, decoder = ReadyEncoder(), hpack.Decoder()
        assert [decoder.decode(encoder.encode(block)) for block in blocks] == blocks


def test_bytes_and_text_are_the_same():
    """h2 gives either."""
    raw = [(name.encode(), value.encode()) for name, value in HEADERS]
    assert hpack.Decoder().decode(ReadyEncoder().encode(raw)) == HEADERS
    worded = [*raw, (b"grpc-message", b"in use")]
    encoder = ReadyEncoder()
    assert hpack.Decoder().decode(encoder.encode(worded)) == [*HEADERS, ("grpc-message", "in use")]
    assert len(encoder.header_table.dynamic_entries) > 0  # so it was not a ready one


def test_a_block_is_encoded_once(monkeypatch):
    """The second time, on whichever connection, no field is looked at."""
    first = ReadyEncoder().encode(HEADERS)
    monkeypatch.setattr(hpack.Encoder, "add", None)
    assert ReadyEncoder().encode(HEADERS) == first


def test_words_of_errors_are_not_kept():
    """A message is that of one answer; ten thousand of them must not push the ready blocks out."""
    encoder = ReadyEncoder()
    encoder.encode([("grpc-status", "9"), ("grpc-message", "in use")])
    (name, _), *_ = encoder.header_table.dynamic_entries
    assert name == b"grpc-message"


@pytest.mark.parametrize("size", [0, 100])
def test_a_client_hears_that_its_table_size_is_heeded(size):
    """A client that asks for a smaller table is answered in the next block, ready or not (RFC 7541, 4.2)."""
    encoder, decoder = ReadyEncoder(), hpack.Decoder()
    decoder.decode(encoder.encode(HEADERS))
    encoder.header_table_size = size
    decoder.max_allowed_table_size = size  # from now on it refuses a block that does not begin with the size
    assert decoder.decode(encoder.encode(HEADERS)) == HEADERS
    assert decoder.header_table_size == size
    assert decoder.decode(encoder.encode(TRAILERS)) == TRAILERS


# -- without it ----------------------------------------------------------------------------------------


async def transcript(folder) -> tuple[int, dict]:
    """What a client reads of answers of all kinds, frame by frame, to the end of the connection."""
    volume = Volume(VolumeId("p", "0123abcd", "n"), "n", 1)
    unstage = csi.NodeUnstageVolumeRequest(volume_id="v", staging_target_path="/s")
    unpublish = csi.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t")
    async with serving(folder / "s") as driver:
        driver.workflows.answers |= {
            # More than one frame, and more than a transport takes before it complains.
            "provisioning.list": VolumePage((VolumeView(volume, {"k": "x" * 1000}, (), Condition()),) * 300),
            "staging.unstage": errors.VolumeInUse("»v«: in use\nat /x"),
        }
        client = await PlainClient.connect(driver.path)
        client.open_windows()
        begun, may_end = driver.hold("unpublishing.unpublish")
        held = client.call(
            "/csi.v1.Node/NodeUnpublishVolume",
            framed(unpublish),
        )
        await begun.wait()
        for path, body in (
            ("/csi.v1.Identity/Probe", framed(csi.ProbeRequest())),
            ("/csi.v1.Controller/ListVolumes", framed(csi.ListVolumesRequest())),
            (
                "/csi.v1.Node/NodeUnstageVolume",
                framed(unstage),
            ),
            ("/csi.v1.Node/NodeUnstageVolume", framed(csi.NodeUnstageVolumeRequest())),
            ("/csi.v1.Node/NodeUnstageVolume", b"\0\0\0\0\x02\x0a\xff"),
            ("/csi.v1.Controller/ControllerModifyVolume", framed(csi.ProbeRequest())),
            ("/no.such/Method", framed(csi.ProbeRequest())),
        ):
            await client.answer(client.call(path, body))
        for stream in [client.call("/csi.v1.Identity/GetPluginInfo") for _ in range(20)]:
            await client.answer(stream)
        drain = asyncio.create_task(driver.server.drain(5))
        last = await client.last_stream()
        may_end.set()
        await client.answer(held)
        assert await drain is True
        assert await client.reader.read() == b""
        await client.close()
    return last, {stream: frames for stream, frames in client.frames.items() if stream}


async def test_its_absence_changes_nothing_but_speed(tmp_path, monkeypatch):
    """Answers, refusals, long answers, many at a time, the end: frame by frame a client reads the same."""
    with_it = await transcript(tmp_path)
    hastened = []
    monkeypatch.setattr(server, "hasten", hastened.append)
    without = await transcript(tmp_path)
    assert len(hastened) == 1
    assert with_it == without
    assert len(without[1]) == 28
