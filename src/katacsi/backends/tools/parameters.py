"""StorageClass parameters of a backend, as their pool reads them; refused by their full key."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeVar

from katacsi.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

E = TypeVar("E", bound=enum.Enum)


def check_known(parameters: Mapping[str, str], known: Collection[str], prefix: str) -> None:
    """Refuse what the backend does not have; `prefix` makes full keys of its keys.

    Raises:
        InvalidRequest: a parameter is unknown.
    """
    for key in parameters:
        if key not in known:
            legal = ", ".join(prefix + name for name in known)
            raise InvalidRequest(prefix + key, f"unknown parameter; known are {legal}")


def one_of(kinds: type[E], key: str, parameters: Mapping[str, str], default: E, prefix: str) -> E:
    """Read a parameter that is a member of an enumeration of texts.

    Raises:
        InvalidRequest: it is none of them.
    """
    if key not in parameters:
        return default
    try:
        return kinds(parameters[key])
    except ValueError:
        legal = ", ".join(str(member.value) for member in kinds)
        raise InvalidRequest(
            prefix + key, f"{parameters[key]!r} is not legal; write one of {legal}"
        ) from None
