"""How volume.json is laid out: a line for what stays, and two places for the facts, written in turn.

mkfs and guests wait until a fact is durable. A new file for each would wait for two commits of the
filesystem's journal; here one sector of a file is overwritten, which needs none. A sector is written as a
whole or not at all, so after a power cut a place holds the former facts or the new ones. Each place begins a
block of its own, and says with a checksum that it is whole: what is not is no older state but damage, for
older facts could let mkfs run once more.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

#: Both begin such a block, and the first line is filled up to one.
_BLOCK: Final = 4096
#: No disk writes less than this at once.
_SECTOR: Final = 512
_PLACES: Final = 2
_BLANK: Final = b" " * (_BLOCK - 1) + b"\n"


class Damaged(ValueError):
    """The bytes are no such file; the text says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: the line that stays, and the newest facts with their number."""

    line: bytes
    number: int
    facts: bytes


def encode(content: Content) -> bytes:
    """Give a whole file.

    Raises:
        ValueError: the facts need more than a sector.
    """
    filled = -(-(len(content.line) + 1) // _BLOCK) * _BLOCK
    places = [_BLANK] * _PLACES
    places[content.number % _PLACES] = _place(content.number, content.facts) + _BLANK[_SECTOR:]
    return content.line.ljust(filled - 1) + b"\n" + b"".join(places)


def overwriting(length: int, number: int, facts: bytes) -> tuple[int, bytes]:
    """Give the offset and the bytes that put new facts into a file of this length.

    Raises:
        ValueError: the facts need more than a sector.
    """
    return length - (_PLACES - number % _PLACES) * _BLOCK, _place(number, facts)


def decode(data: bytes) -> Content:
    """Read a whole file.

    Raises:
        Damaged: it is none, or a place is not whole.
    """
    end = len(data) - _PLACES * _BLOCK
    if end <= 0 or len(data) % _BLOCK:
        raise Damaged(f"has {len(data)} bytes, which is no such record")
    held = [
        found
        for start in range(end, len(data), _BLOCK)
        if (found := _facts_in(data[start : start + _BLOCK])) is not None
    ]
    if not held:
        raise Damaged("holds no facts")
    number, facts = max(held)
    return Content(data[:end].rstrip(), number, facts)


def _place(number: int, facts: bytes) -> bytes:
    body = b'"number": %d, "facts": %b}' % (number, facts)
    whole = b'{"crc32": "%08x", %b' % (zlib.crc32(body), body)
    if len(whole) > _SECTOR:
        raise ValueError(f"{len(whole)} bytes of facts do not fit into a sector of {_SECTOR}")
    return whole.ljust(_SECTOR)


def _facts_in(block: bytes) -> tuple[int, bytes] | None:
    text = block.rstrip()
    if not text:
        return None
    head, separator, body = text.partition(b", ")
    if not separator or head != b'{"crc32": "%08x"' % zlib.crc32(body):
        raise Damaged("has facts whose checksum is wrong")
    number, _, facts = body.removeprefix(b'"number": ').partition(b', "facts": ')
    return int(number), facts.removesuffix(b"}")
