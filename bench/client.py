"""The load client: gRPC by hand, since on two cores every cycle of the client is one that the server lacks.

A connection carries one call at a time over a blocking socket, with ready-made header blocks and frames. A
unary call costs it about a fifth of the processor time that grpcio takes, and a sixth of grpclib's. Both
servers are driven by this same client.

It knows what a benchmark needs of HTTP/2 and no more: no flow control of its own (the windows it opens are
never used up), no multiplexing (calls in flight are connections in flight, as with kubelet, which dials for
each call).
"""

from __future__ import annotations

import socket
from functools import cache, lru_cache
from pathlib import Path

from hpack import Decoder

TREE = Path(__file__).resolve().parent.parent

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
#: What a call that waits longer than this says; no step of a lifecycle takes seconds.
_PATIENCE_S = 60


class CallFailed(Exception):
    """A call ended with another status than OK."""

    def __init__(self, method: str, code: str, message: str) -> None:
        super().__init__(f"{method}: gRPC status {code}: {message}")
        self.code = code


class Connection:
    """One HTTP/2 connection to a unix socket; calls go one after the other."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_PATIENCE_S)
        try:
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise
        # Header table of the peer's encoder: 0 entries, so that every header block stands alone.
        settings = (1).to_bytes(2) + (0).to_bytes(4) + (4).to_bytes(2) + (1 << 30).to_bytes(4)
        window = _frame(_WINDOW, 0, 0, ((1 << 30) - 1).to_bytes(4))
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)
        self._buffer = bytearray()
        self._stream = -1

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, method: str, message: bytes) -> bytes:
        """Make a unary call: `/csi.v1.Node/NodeStageVolume` and an encoded message, for an encoded message.

        Raises:
            CallFailed: the status is not OK.
            ConnectionError: the server hung up.
        """
        self._stream += 2
        stream = self._stream
        body = b"\0" + len(message).to_bytes(4) + message
        self._socket.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, _headers(method))
            + _frame(_DATA, _END_STREAM, stream, body)
        )
        answer = b""
        while True:
            kind, flags, of_stream, payload = self._read_frame()
            if kind == _SETTINGS and not flags & _ACK:
                self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self._socket.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                raise ConnectionError("the server is going away")
            elif of_stream != stream:
                continue
            elif kind == _DATA:
                answer += payload
            elif kind == _RST:
                raise CallFailed(method, "RST_STREAM", str(int.from_bytes(payload)))
            elif kind == _HEADERS and flags & _END_STREAM:
                trailers = _fields(payload)
                if trailers.get("grpc-status") != "0":
                    raise CallFailed(
                        method, trailers.get("grpc-status", ""), trailers.get("grpc-message", "")
                    )
                return answer[5:]

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        buffer = self._buffer
        while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3]):
            if not (data := self._socket.recv(1 << 16)):
                raise ConnectionError("the server closed the connection")
            buffer += data
        end = 9 + int.from_bytes(buffer[:3])
        frame = buffer[3], buffer[4], int.from_bytes(buffer[5:9]) & 0x7FFFFFFF, bytes(buffer[9:end])
        del buffer[:end]
        return frame


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


@cache
def _headers(method: str) -> bytes:
    """Give a call's header block: literals without indexing or Huffman code, which every decoder reads."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    # Every length is below 127, so one byte holds it.
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields
    )


@lru_cache
def _fields(block: bytes) -> dict[str, str]:
    """Read a header block; without a table it stands alone, and that of success is always the same."""
    return dict(Decoder().decode(block))
