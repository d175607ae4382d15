"""The steps by which a backend changes something, watched in this process: calls of `os`, `io`, the kernel.

What is watched is Python's own functions, as a backend and `katacsi.host` call them (`os.rename(…)`, not a
name that was imported from there), the start of a tool, and the kernel calls of `katacsi.host`. What a tool
or a C library does inside is not seen.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import functools
import io
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from katacsi.host import _linux, _spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: ioctls that only ask: LOOP_GET_STATUS64, LOOP_CTL_GET_FREE, BLKROGET, BLKSSZGET, BLKGETSIZE64.
_ASKING: Final = frozenset({0x4C05, 0x4C82, 0x125E, 0x1268, 0x80081272})

_TOOL: Final = "start of a tool"

_CREATING: Final = os.O_CREAT | os.O_TRUNC
_WRITING: Final = os.O_WRONLY | os.O_RDWR

#: Calls that wait for a disk and change nothing that a process could lose by its own end.
SYNCS: Final = frozenset({"fsync", "fdatasync", "sync"})

_WATCHED: Final[tuple[tuple[Any, tuple[str, ...]], ...]] = (
    (os, ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "mknod")),
    (os, ("open", "write", "pwrite", "writev", "pwritev", "truncate", "ftruncate", "posix_fallocate")),
    (os, ("copy_file_range", "sendfile", "fsync", "fdatasync", "sync")),
    (io, ("open",)),
    (builtins, ("open",)),
    (fcntl, ("ioctl",)),
    (subprocess.Popen, ("__init__",)),
    (time, ("sleep",)),
    (_linux, ("mount", "umount", "fallocate", "rename_noreplace")),
    (_spawn, ("start",)),
)


@dataclass(frozen=True)
class Step:
    """A call of a watched function."""

    name: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]

    def __str__(self) -> str:
        # Of a method, the object is not whole yet, and nobody's business.
        first = 1 if self.name == _TOOL else 0
        return f"{self.name} ({', '.join(str(one)[:80] for one in self.arguments[first : first + 2])})"

    @property
    def changes(self) -> bool:
        """Whether it changes something that a crash before or after it would leave otherwise."""
        if self.name in SYNCS or self.name == "sleep":
            return False
        if self.name == "ioctl":
            return self._argument(1, "request") not in _ASKING
        return not self.opens or self.opens_to_create

    @property
    def opens(self) -> bool:
        """Whether it opens a file."""
        return self.name in {"open", "os.open"}

    @property
    def opens_to_write(self) -> bool:
        """Whether it opens a file so that its bytes can be changed."""
        if self.name == "os.open":
            return bool(self._argument(1, "flags") & _WRITING)
        return self.name == "open" and bool(set("wax+") & set(self._mode))

    @property
    def opens_to_create(self) -> bool:
        """Whether it opens a file that is made, or emptied, by that."""
        if self.name == "os.open":
            return bool(self._argument(1, "flags") & _CREATING)
        return self.name == "open" and bool(set("wx") & set(self._mode))

    @property
    def _mode(self) -> str:
        return str(self._argument(1, "mode", "r"))

    def _argument(self, place: int, name: str, default: Any = 0) -> Any:  # noqa: ANN401 -- whatever was passed
        return self.arguments[place] if len(self.arguments) > place else self.named.get(name, default)


class Observer(Protocol):
    """Who is told of each step; what `before` raises is raised in place of the call."""

    def before(self, step: Step) -> None:
        """Learn that a step begins."""

    def after(self, step: Step, result: object) -> None:
        """Learn that a step came to its end, without an error."""


@contextlib.contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """Tell of each step that any thread of this process takes."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for owner, names in _WATCHED:
            for name in names:
                original = getattr(owner, name)
                replaced.append((owner, name, original))
                setattr(owner, name, _told(_shown(owner, name), original, observer))
        yield
    finally:
        for owner, name, original in reversed(replaced):
            setattr(owner, name, original)


def _shown(owner: object, name: str) -> str:
    if owner is os and name == "open":
        return "os.open"
    return _TOOL if name in {"__init__", "start"} else name


def _told(name: str, function: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 -- as the function
        step = Step(name, arguments, named)
        observer.before(step)
        result = function(*arguments, **named)
        observer.after(step, result)
        return result

    return call
