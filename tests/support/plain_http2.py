"""A client that sees what a gRPC library hides, and sends what one would not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hpack
import hyperframe.frame

if TYPE_CHECKING:
    from pathlib import Path


class PlainClient:
    """HTTP/2 frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.next_stream = 1
        #: All header fields of each stream, trailers too.
        self.answers: dict[int, dict[str, str]] = {}
        #: What came on each stream, in its order: header fields, bytes of the message, flags.
        self.frames: dict[int, list[tuple[str, object, tuple[str, ...]]]] = {}
        self.goaway: hyperframe.frame.GoAwayFrame | None = None
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hyperframe.frame.SettingsFrame().serialize())

    @classmethod
    async def connect(cls, path: Path) -> PlainClient:
        return cls(*await asyncio.open_unix_connection(path))

    def call(self, path: str, body: bytes = b"\0\0\0\0\0", timeout: str = "") -> int:
        """Send a whole request; give its stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            **({"grpc-timeout": timeout} if timeout else {}),
        }
        headers = hyperframe.frame.HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS"])
        data = hyperframe.frame.DataFrame(stream, body, flags=["END_STREAM"])
        self.writer.write(headers.serialize() + data.serialize())
        return stream

    def open_windows(self) -> None:
        """Take whatever the server sends."""
        settings = {hyperframe.frame.SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}
        self.writer.write(
            hyperframe.frame.SettingsFrame(settings=settings).serialize()
            + hyperframe.frame.WindowUpdateFrame(0, window_increment=2**30).serialize()
        )

    async def answer(self, stream: int) -> dict[str, str]:
        """Read on until a stream has its status; give its header fields."""
        while "grpc-status" not in self.answers.get(stream, {}):
            await self.read_frame()
        return self.answers[stream]

    async def last_stream(self) -> int:
        """Read on until GOAWAY; give the last stream that it says is served."""
        while self.goaway is None:
            await self.read_frame()
        assert self.goaway.error_code == 0
        return self.goaway.last_stream_id

    async def read_frame(self) -> None:
        async with asyncio.timeout(5):
            frame, length = hyperframe.frame.Frame.parse_frame_header(
                memoryview(await self.reader.readexactly(9))
            )
            frame.parse_body(memoryview(await self.reader.readexactly(length)))
        content: object = getattr(frame, "data", b"")
        if isinstance(frame, hyperframe.frame.HeadersFrame):
            content = self.decoder.decode(frame.data)
            self.answers.setdefault(frame.stream_id, {}).update(content)
        seen = type(frame).__name__, content, tuple(sorted(frame.flags))
        self.frames.setdefault(frame.stream_id, []).append(seen)
        if isinstance(frame, hyperframe.frame.GoAwayFrame):
            self.goaway = frame

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def framed(message) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + len(bytes(message)).to_bytes(4, "big") + bytes(message)
