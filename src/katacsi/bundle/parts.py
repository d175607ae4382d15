"""The parts of a bundle: each a file that is made by itself, in bounded time, and fails by itself."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.bundle.redacting import redacted, scrubbed
from katacsi.errors import KatacsiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from katacsi.settings import Settings
    from katacsi.volumes.publish.marks import Marks

    #: Gives text, or what JSON can hold.
    Make = Callable[["Subject"], Awaitable[object]]

#: The end of a longer file is left out.
MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What a bundle is about.

    Attributes:
        config: the configuration's path.
        settings: what it says; None: it cannot be used, and `problem` says why.
        node_id: the node's name.
        host_root: where the node's root folder is seen.
        marks: this boot's marks of the driver, as far as they can be read.
        secrets: what may be in no file.
    """

    config: Path
    settings: Settings | None
    problem: str
    node_id: str
    host_root: Path
    marks: Marks
    secrets: frozenset[str]

    @property
    def known(self) -> Settings:
        """The settings, for what cannot do without.

        Raises:
            KatacsiError: there are none.
        """
        if self.settings is None:
            raise KatacsiError(f"needs the configuration, which cannot be used: {self.problem}")
        return self.settings


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the bundle.

    Attributes:
        name: the file's; `.json` says that `make` gives data.
        about: a line of the list of contents.
        make: makes its content.
        timeout_s: how long that may take.
    """

    name: str
    about: str
    make: Make
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class File:
    """A part that was made, or the words of what kept it from being made."""

    name: str
    data: bytes
    problem: str = ""
    hung: bool = False


async def made(part: Part, subject: Subject) -> File:
    """Make a part; whatever goes wrong becomes its content."""
    try:
        async with asyncio.timeout(part.timeout_s):
            content = await part.make(subject)
    except TimeoutError:
        return _failed(part, f"took longer than {part.timeout_s:g} s", subject, hung=True)
    except KatacsiError as error:
        return _failed(part, error.message, subject)
    except Exception as error:  # noqa: BLE001  # a part says what is wrong with it, and hinders no other
        return _failed(part, f"{type(error).__name__}: {error}", subject)
    return File(part.name, scrubbed(_encoded(part, content), subject.secrets))


async def gathered(parts: Sequence[Part], subject: Subject) -> list[File]:
    """Make all parts, one after the other: a node in trouble is not given more to do at once."""
    return [await made(part, subject) for part in parts]


def _failed(part: Part, words: str, subject: Subject, *, hung: bool = False) -> File:
    content: object = {"error": words} if part.name.endswith(".json") else f"Error: {words}\n"
    data = scrubbed(_encoded(part, content), subject.secrets)
    return File(part.name, data, scrubbed(os.fsencode(words), subject.secrets).decode(errors="replace"), hung)


def _encoded(part: Part, content: object) -> bytes:
    if not part.name.endswith(".json"):
        return str(content).encode(errors="backslashreplace")[:MOST_BYTES]
    data = json.dumps(redacted(content), indent=2, default=str).encode()
    if len(data) > MOST_BYTES:
        return json.dumps({"error": f"has {len(data)} bytes, more than {MOST_BYTES}"}).encode()
    return data + b"\n"
