"""Header blocks of answers, encoded once: nearly every answer has the same two."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from hpack import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What makes a block one of many: the words of an error.
_OF_THIS_ANSWER: Final = frozenset({"grpc-message", "grpc-status-details-bin"})


class ReadyEncoder(Encoder):
    """An HPACK encoder for the answers of one connection that encodes no block twice.

    Ready blocks leave the connection's header table alone (RFC 7541, 6.2.3, "never indexed"), so they mean
    the same on each; they are some bytes longer than the shortest ones, on a socket of the same machine.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Give the block of these headers."""
        fields = tuple(headers)
        # A table that was resized has to be told of in the next block (RFC 7541, 4.2).
        if self.header_table.resized or any(_text(name) in _OF_THIS_ANSWER for name, _ in fields):
            return super().encode(fields, huffman)
        return _ready(fields)


@lru_cache(maxsize=64)
def _ready(fields: tuple[tuple[Any, Any], ...]) -> bytes:
    return Encoder().encode([(name, value, True) for name, value in fields])


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
