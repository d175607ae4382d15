"""What of a message may be written down: everything but its secrets.

`repr()` of a message prints them, so a message is never logged in any other way than through `describe`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from katacsi.logs import REDACTED, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

#: Shorter values cannot be told from ordinary text; replacing them would only make an error unreadable.
_SHORTEST_SECRET: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Redaction:
    """Which fields of messages are secret.

    Attributes:
        fields: the name of a message's class to its fields that are maps of secrets.
        mixed: fields, of any message, that are maps of secrets and of other things: what has a key that
            sounds secret is one.
    """

    fields: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)
    mixed: Collection[str] = ()

    def describe(self, message: object) -> dict[str, Any]:
        """Give the fields of a message that are set, in plain types; of secret maps only the keys."""
        return {
            name: _redacted(value) if self._is_secret(message, name) else self._plain(value)
            for name, value in _set_fields(message)
        }

    def secret_values(self, message: object) -> frozenset[str]:
        """Give every secret that a message carries."""
        return frozenset(
            secret
            for name, value in _set_fields(message)
            if self._is_secret(message, name) and isinstance(value, dict)
            for key, secret in value.items()
            if name not in self.mixed or sounds_secret(str(key))
            if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET
        )

    def _is_secret(self, message: object, field: str) -> bool:
        return field in self.mixed or field in self.fields.get(type(message).__name__, ())

    def _plain(self, value: object) -> object:
        if dataclasses.is_dataclass(value):
            return self.describe(value)
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, dict):
            return dict(value)
        # An enum of betterproto2 is an int; its name says more.
        return getattr(value, "name", None) or (value if isinstance(value, int | bool) else str(value))


def scrub(text: str, secrets: frozenset[str]) -> str:
    """Take secrets out of a text, as they are and as `repr` writes them."""
    # The longest first: one secret may contain another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED).replace(repr(secret)[1:-1], REDACTED)
    return text


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
