"""What of a message may be written down: everything but its secrets.

CSI marks secret fields in its proto file; the table of them is generated from there. `repr()` of a message
prints them, so a message is never logged in any other way than through `describe`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from katacsi._gen.secrets import SECRET_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

REDACTED: Final = "[redacted]"

#: Not marked by CSI, but a network volume's publish context carries what lets a node attach it: beside
#: addresses, that are no secret, what has one of these words in its key.
_CONTEXT: Final = "publish_context"
_SECRET_KEYS: Final = re.compile("secret|token|password|credential")
#: Shorter values cannot be told from ordinary text; replacing them would only make an error unreadable.
_SHORTEST_SECRET: Final = 4


def describe(message: object) -> dict[str, Any]:
    """Give the fields of a message that are set, in plain types; of secret maps only the keys."""
    return {
        name: _redacted(value) if _is_secret(message, name) else _plain(value)
        for name, value in _set_fields(message)
    }


def secret_values(message: object) -> frozenset[str]:
    """Give every secret that a message carries."""
    return frozenset(
        secret
        for name, value in _set_fields(message)
        if _is_secret(message, name) and isinstance(value, dict)
        for key, secret in value.items()
        if name != _CONTEXT or _SECRET_KEYS.search(str(key).lower())
        if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET
    )


def scrub(text: str, secrets: frozenset[str]) -> str:
    """Take secrets out of a text, as they are and as `repr` writes them."""
    # The longest first: one secret may contain another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED).replace(repr(secret)[1:-1], REDACTED)
    return text


def _is_secret(message: object, field: str) -> bool:
    return field == _CONTEXT or field in SECRET_FIELDS.get(type(message).__name__, ())


def _set_fields(message: object) -> Iterator[tuple[str, Any]]:
    if not dataclasses.is_dataclass(message):
        return
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        # A sub-message without content is falsy and still says something: `mount {}`.
        if value or dataclasses.is_dataclass(value):
            yield field.name, value


def _redacted(value: object) -> object:
    return dict.fromkeys(map(str, value), REDACTED) if isinstance(value, dict) else REDACTED


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return describe(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return dict(value)
    # An enum of betterproto2 is an int; its name says more.
    return getattr(value, "name", None) or (value if isinstance(value, int | bool) else str(value))
