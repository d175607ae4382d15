"""Reads the bytes of a record where both runtimes read the same, and refuses the rest.

Mostly runtime-rs (serde) is the stricter one; but a key in another case is a known one to Go only. Source:
kata-containers, runtime/pkg/direct-volume/utils.go and libs/kata-types/src/mount.rs. The tests compare with
what their code answers.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from katacsi.errors import CorruptRecord

if TYPE_CHECKING:
    from pathlib import Path

MAX_GROUP_ID = (1 << 32) - 1

#: What Kubernetes knows. Kata takes everything but OnRootMismatch for Always, a misspelling too.
GROUP_CHANGE_POLICIES = ("OnRootMismatch", "Always")

_GROUP_ID = re.compile(r"[1-9][0-9]{0,9}\Z", re.ASCII)
_KEYS = ("volume-type", "device", "fstype", "metadata", "options")


class _Object(list[tuple[str, Any]]):
    """A JSON object with its duplicates."""


def _folded(key: str) -> str:
    """Give the key that Go takes this one for, if any: it ignores case, and knows a second s and k."""
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


class Reader:
    """Reads one record; every refusal names the file."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def fields(self, data: bytes) -> dict[str, Any]:
        """Give the arguments that make the record."""
        record = self._parse(data)
        known = self._known(record)
        metadata = dict(self._metadata(known.get("metadata", _Object())))
        policy = metadata.get("fsGroupChangePolicy", "")
        fields = {
            "volume_type": self._text(known, "volume-type"),
            "device": self._text(known, "device"),
            "fs_type": self._text(known, "fstype"),
            "options": self._options(known.get("options", [])),
            "fs_group": self._group(metadata.get("fsGroup")),
            # Kata's reading of a word that it does not know.
            "fs_group_change_policy": policy if policy in ("", *GROUP_CHANGE_POLICIES) else "Always",
        }
        self._check_text([key for key, _ in record], known)
        return fields

    def _parse(self, data: bytes) -> _Object:
        try:
            value = json.loads(
                data.decode(),
                object_pairs_hook=_Object,
                parse_constant=self._no_constant,
                parse_int=float,  # no number means anything here, and int() limits the number of digits
            )
        except UnicodeError:
            self._refuse("is not UTF-8")
        except (ValueError, RecursionError) as error:
            self._refuse(f"is not JSON ({error})" if data else "is empty")
        if not isinstance(value, _Object):
            self._refuse("is not a JSON object")
        return value

    def _known(self, record: _Object) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for key, value in record:
            if key not in _KEYS:
                if (taken_for := _folded(key)) in _KEYS:
                    self._refuse(f'has "{key}", which only one of the runtimes takes for "{taken_for}"')
                continue
            if key in known:
                self._refuse(f'has "{key}" twice')
            known[key] = value
        return known

    def _check_text(self, keys: list[str], known: dict[str, Any]) -> None:
        """Refuse half of a surrogate pair in what is read: to Go it is a sign, and to Rust no text."""
        try:
            json.dumps([keys, known], ensure_ascii=False).encode()
        except UnicodeError:
            self._refuse("is not UTF-8")

    def _text(self, known: dict[str, Any], key: str) -> str:
        if key not in known:
            self._refuse(f'has no "{key}"')
        value = known[key]
        if not isinstance(value, str):
            self._refuse(f'has a "{key}" that is no string')
        return value

    def _metadata(self, value: object) -> _Object:
        if not isinstance(value, _Object) or not all(isinstance(text, str) for _, text in value):
            self._refuse('has "metadata" that is no object of strings')
        return value

    def _options(self, value: object) -> tuple[str, ...]:
        if (
            not isinstance(value, list)
            or isinstance(value, _Object)
            or not all(isinstance(option, str) for option in value)
        ):
            self._refuse('has "options" that are no list of strings')
        return tuple(value)

    def _group(self, text: str | None) -> int | None:
        if text is None:
            return None
        if not _GROUP_ID.match(text) or int(text) > MAX_GROUP_ID:
            self._refuse(f'has an "fsGroup" of {text!r}, which is no group id from 1 to {MAX_GROUP_ID}')
        return int(text)

    def _no_constant(self, word: str) -> NoReturn:
        self._refuse(f"is not JSON ({word})")

    def _refuse(self, fact: str) -> NoReturn:
        raise CorruptRecord(f"{self._path}: the direct-volume record {fact}; unpublish its volume")
