"""The processes of the node, by what they were started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from katacsi.findings import Unread

if TYPE_CHECKING:
    from katacsi.doctor.hostfiles import HostFiles


@dataclass(frozen=True, slots=True)
class Process:
    """A process, and its arguments, the program first."""

    pid: int
    argv: tuple[str, ...]

    @property
    def program(self) -> str:
        """The program's file name, as it was started."""
        return PurePosixPath(self.argv[0]).name

    def option(self, name: str) -> str:
        """Give the value of an option, as its own argument or after `=`; empty: there is none."""
        for word, following in zip(self.argv, [*self.argv[1:], ""], strict=True):
            if word == name and following:
                return following
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return ""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of the node; with a `problem` they could not be looked at."""

    all: tuple[Process, ...] = ()
    problem: str = ""

    def named(self, *programs: str) -> list[Process]:
        """Give those that were started as one of these programs."""
        return [process for process in self.all if process.program in programs]


def find(files: HostFiles) -> Processes:
    """Read the process table."""
    names = files.names("/proc")
    if isinstance(names, Unread):
        return Processes(problem=names.reason)
    found = tuple(
        Process(int(name), argv) for name in names if name.isdigit() and (argv := _argv(files, name))
    )
    return Processes(found, "" if found else "/proc shows no processes of the node")


def _argv(files: HostFiles, pid: str) -> tuple[str, ...]:
    """Read the arguments; a thread of the kernel has none, nor has a process that has ended meanwhile."""
    data = files.data(f"/proc/{pid}/cmdline")
    if not isinstance(data, bytes) or not data:
        return ()
    return tuple(data.decode(errors="replace").rstrip("\0").split("\0"))
