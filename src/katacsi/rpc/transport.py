"""A connection's transport that sends an answer in one system call.

grpclib writes three times for each: headers, message, trailers.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

#: With so much at hand it is sent at once: only of what it was given can the transport beneath say that the
#: client does not take it, whereupon grpclib pauses. It is the mark at which asyncio says so.
_SEND_AT_BYTES: Final = 64 << 10


class GatheringTransport(asyncio.Transport):
    """Has those methods of a transport that grpclib and the drain use; what is written keeps its order."""

    def __init__(self, beneath: asyncio.Transport) -> None:
        super().__init__()
        self._beneath = beneath
        self._loop = asyncio.get_running_loop()
        self._gathered = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take what is to be sent with an answer's end, or after all that is ready to run now has run."""
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered += data
        if _ends_stream(data) or len(self._gathered) >= _SEND_AT_BYTES:
            self._send()

    def close(self) -> None:
        """Close, once what was written is sent."""
        self._send()
        self._beneath.close()

    def abort(self) -> None:
        """Close at once; what is not sent is lost."""
        self._gathered.clear()
        self._beneath.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._beneath.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  # asyncio's signature
        """Tell what is known about the connection."""
        return self._beneath.get_extra_info(name, default)

    def _send(self) -> None:
        if not self._gathered:
            return
        data, self._gathered = self._gathered, bytearray()
        if not self._beneath.is_closing():
            self._beneath.write(data)


def _ends_stream(frame: bytes | bytearray | memoryview) -> bool:
    """Say whether a frame is a HEADERS frame with END_STREAM: an answer's trailers (RFC 9113, 6.2)."""
    return len(frame) > 4 and frame[3] == 0x1 and bool(frame[4] & 0x1)
