"""Single fields of a message: present where required, and of the type they claim.

betterproto2 does not check what it decodes: a number on the wire lands as an int in a `str` field, bytes in
an `int` field. Behind this module every value has its type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from katacsi.errors import InvalidRequest
from katacsi.model import MAX_NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

#: CSI allows any Unicode in a name but control characters, tab and line ends excepted.
_BANNED: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: CSI: a map of strings is at most 4 KiB.
MAX_MAP_BYTES: Final = 4096


def text(field: str, value: object) -> str:
    """Check an optional string."""
    if not isinstance(value, str):
        raise InvalidRequest(field, "has to be a string")
    return value


def required(field: str, value: object) -> str:
    """Check a string that has to be there."""
    checked = text(field, value)
    if not checked:
        raise InvalidRequest(field, "is required and was empty")
    return checked


def name(field: str, value: object) -> str:
    """Check a name that the caller chose for something new."""
    checked = required(field, value)
    if len(checked.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(field, f"is longer than the {MAX_NAME_BYTES} bytes that CSI allows")
    if found := _BANNED.search(checked):
        raise InvalidRequest(field, f"has the control character U+{ord(found[0]):04X}, which CSI bans")
    return checked


def path(field: str, value: object) -> str:
    """Check a path that has to be there; whether it is ours is the workflow's question."""
    checked = required(field, value)
    if "\0" in checked:
        raise InvalidRequest(field, "has a NUL character")
    return checked


def optional_path(field: str, value: object) -> str:
    """Check a path that may be empty."""
    return path(field, value) if text(field, value) else ""


def number(field: str, value: object) -> int:
    """Check a count or size: an integer that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(field, "has to be an integer")
    if value < 0:
        raise InvalidRequest(field, f"is {value}; it cannot be negative")
    return value


def flag(field: str, value: object) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool):
        raise InvalidRequest(field, "has to be a boolean")
    return value


def texts(field: str, values: Sequence[object]) -> tuple[str, ...]:
    """Check a list of strings."""
    return tuple(text(f"{field}[{index}]", value) for index, value in enumerate(values))


def mapping(field: str, values: dict[str, str]) -> dict[str, str]:
    """Check a map of strings."""
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidRequest(field, "has to map strings to strings")
    return values


def stored_mapping(field: str, values: dict[str, str]) -> dict[str, str]:
    """Check a map of strings that will be kept with the volume, where room is limited."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in mapping(field, values).items())
    if size > MAX_MAP_BYTES:
        raise InvalidRequest(field, f"has {size} bytes, more than the {MAX_MAP_BYTES} that CSI allows")
    return values


def part(field: str, value: object, kind: type[T]) -> T:
    """Check a sub-message that has to be there. An empty one is falsy, and there."""
    if value is None:
        raise InvalidRequest(field, "is required and was not set")
    if not isinstance(value, kind):
        raise InvalidRequest(field, "has to be a message")
    return value


def optional_part(field: str, value: object, kind: type[T]) -> T | None:
    """Check a sub-message that may be unset."""
    return None if value is None else part(field, value, kind)


def parts(field: str, values: Sequence[object], kind: type[T]) -> tuple[T, ...]:
    """Check a list of sub-messages."""
    return tuple(part(f"{field}[{index}]", value, kind) for index, value in enumerate(values))
