"""How volume.json is laid out: a line for what stays, and two places for the facts, written in turn.

mkfs and guests wait until a fact is durable. A new file for each would wait for two commits of the
filesystem's journal; here one block of a file is overwritten, which needs none. A power cut may leave a part
of it, in whole sectors: a sector is written as a whole or not at all. So each sector says, with a checksum,
which write it belongs to. Sectors that are whole and do not belong together are a write of which nobody was
told that it ended: the other place holds. A sector that is not whole is damage, and no older state: older
facts could let mkfs run once more.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

#: Both places begin such a block and fill it, and the first line is filled up to one.
_BLOCK: Final = 4096
#: No disk writes less than this at once.
_SECTOR: Final = 512
_SECTORS: Final = _BLOCK // _SECTOR
_PLACES: Final = 2
_BLANK: Final = b" " * (_BLOCK - 1) + b"\n"
#: What a sector has room for beside what tells its write; the last byte of a place ends a line.
_PIECE: Final = 400
#: So many bytes of facts have room.
ROOM: Final = _SECTORS * _PIECE

#: The number counts the writes. One that is repeated after a power cut has the number of the torn one, so
#: what needs more sectors than one says the checksum of the whole in each of them.
_BODY = re.compile(
    rb'"number": (\d+),(?: "part": (\d+), "of": (\d+), "whole": "([0-9a-f]{8})",)? "facts": (.*)}', re.DOTALL
)


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
        ValueError: the facts have more than `ROOM` bytes.
    """
    filled = -(-(len(content.line) + 1) // _BLOCK) * _BLOCK
    places = [_BLANK] * _PLACES
    places[content.number % _PLACES] = _place(content.number, content.facts)
    return content.line.ljust(filled - 1) + b"\n" + b"".join(places)


def overwriting(length: int, number: int, facts: bytes) -> tuple[int, bytes]:
    """Give the offset and the bytes that put new facts into a file of this length.

    Raises:
        ValueError: the facts have more than `ROOM` bytes.
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
    first, second = (_read(data[start : start + _BLOCK]) for start in range(end, len(data), _BLOCK))
    held = [place for place in (first, second) if isinstance(place, _Facts)]
    if not held:
        raise Damaged("holds no facts")
    for torn in (place for place in (first, second) if isinstance(place, _Torn)):
        # The write that a power cut tore came right after the one that the other place holds, or it was to
        # take the place of the one right before that.
        if abs(torn.number - held[0].number) != 1:
            raise Damaged(f"has a part of facts {torn.number} beside facts {held[0].number}")
    newest = max(held, key=lambda place: place.number)
    return Content(data[:end].rstrip(), newest.number, newest.text)


@dataclass(frozen=True, slots=True)
class _Facts:
    number: int
    text: bytes


@dataclass(frozen=True, slots=True)
class _Torn:
    number: int


@dataclass(frozen=True, slots=True)
class _Write:
    """What all sectors of one write say."""

    number: int
    of: int
    whole: bytes


@dataclass(frozen=True, slots=True)
class _Sector:
    write: _Write
    part: int
    piece: bytes


def _place(number: int, facts: bytes) -> bytes:
    if len(facts) > ROOM:
        raise ValueError(f"{len(facts)} bytes of facts do not fit into {ROOM}")
    pieces = [facts[start : start + _PIECE] for start in range(0, len(facts), _PIECE)]
    write = _Write(number, len(pieces), b"%08x" % zlib.crc32(facts))
    sectors = [_sector(_Sector(write, part, piece)) for part, piece in enumerate(pieces)]
    return b"".join(sectors)[: _BLOCK - 1].ljust(_BLOCK - 1) + b"\n"


def _sector(sector: _Sector) -> bytes:
    write = sector.write
    parts = b' "part": %d, "of": %d, "whole": "%b",' % (sector.part, write.of, write.whole)
    body = b'"number": %d,%b "facts": %b}' % (write.number, parts if write.of > 1 else b"", sector.piece)
    return (b'{"crc32": "%08x", %b' % (zlib.crc32(body), body)).ljust(_SECTOR)


def _read(block: bytes) -> _Facts | _Torn | None:
    """Read a place; None: nothing was ever written there."""
    end = _SECTOR if block[_SECTOR:].isspace() else _BLOCK  # mostly: facts are few
    sectors = [_read_sector(block[start : start + _SECTOR]) for start in range(0, end, _SECTOR)]
    if (first := sectors[0]) is not None:
        parts = [sector for sector in sectors[: first.write.of] if sector is not None]
        told = [(sector.write, sector.part) for sector in parts]
        if told == [(first.write, part) for part in range(first.write.of)]:
            return _Facts(first.write.number, b"".join(sector.piece for sector in parts))
    numbers = [sector.write.number for sector in sectors if sector is not None]
    return _Torn(max(numbers)) if numbers else None


def _read_sector(sector: bytes) -> _Sector | None:
    text = sector.rstrip()
    if not text:
        return None
    head, _, body = text.partition(b", ")
    found = _BODY.fullmatch(body)
    if found is None or head != b'{"crc32": "%08x"' % zlib.crc32(body):
        raise Damaged("has facts whose checksum is wrong")
    write = _Write(int(found[1]), int(found[3] or 1), found[4] or b"")
    return _Sector(write, int(found[2] or 0), found[5])
