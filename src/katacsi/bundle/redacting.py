"""Keeps secrets out of a bundle: by the keys that they have, and wherever else their values turn up."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import yaml

from katacsi.logs import REDACTED, sounds_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Shorter values cannot be told from ordinary text.
_SHORTEST: Final = 4
#: A key and its value on a line of YAML.
_LINE: Final = re.compile(r"""^[\s\-{]*["']?([\w.-]+)["']?\s*:\s*["']?(.+?)["'}]*\s*$""", re.MULTILINE)
#: A name and a password in a URL.
_IN_URL: Final = re.compile(r"(?<=://)[^/\s@]+@")


def redacted(value: object) -> Any:  # noqa: ANN401  # what JSON can hold
    """Give a value of JSON without what has a key that sounds secret, at any depth, and without logins."""
    if isinstance(value, dict):
        return {
            str(key): REDACTED if sounds_secret(str(key)) and inner else redacted(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return _IN_URL.sub(f"{REDACTED}@", value) if isinstance(value, str) else value


def secrets_in(value: object, *, is_secret: bool = False) -> Iterator[str]:
    """Give the secrets of a value of JSON: every text whose key sounds secret, and each login in a URL."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from secrets_in(inner, is_secret=is_secret or sounds_secret(str(key)))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from secrets_in(inner, is_secret=is_secret)
    elif isinstance(value, str):
        if is_secret:
            yield value
        for login in _IN_URL.findall(value):
            yield from login.rstrip("@").split(":", 1)
    elif is_secret and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def secrets_of(config: Path, environment: Mapping[str, str]) -> frozenset[str]:
    """Give the secrets of a configuration, as far as it can be read, and of the KATACSI_* variables."""
    found: list[object] = [dict(environment)]
    with suppress(OSError, yaml.YAMLError):
        text = config.read_text(errors="replace")
        # Line by line as well: the error of a file that is no YAML quotes it.
        found += [{key: said} for key, said in _LINE.findall(text)]
        found.append(yaml.safe_load(text))
    for name, text in environment.items():
        with suppress(yaml.YAMLError):
            found.append({name: yaml.safe_load(text)})
    return frozenset(text for value in found for text in secrets_in(value) if len(text) >= _SHORTEST)


def scrubbed(data: bytes, secrets: frozenset[str]) -> bytes:
    """Take secrets out of the bytes of a file, as they are and as JSON, YAML and URLs write them."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may contain another
        for form in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")}:
            data = data.replace(form.encode(errors="surrogateescape"), REDACTED.encode())
    return data
