"""The program that containerd or CRI-O starts for each handler: which it is, and whether it is there.

Source: containerd's core/runtime/v2/shim_manager.go (a path is taken as it is; a type makes a name that is
looked for in containerd's PATH, then beside containerd itself); crio.conf(5), `runtime_path`.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.findings import Checks, Harm, Unread, failure, ok, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.processes import Process, Processes
    from katacsi.findings import Result

PROGRAMS: Final[Checks[Judge]] = Checks("Kata")

#: What systemd gives a service that names no PATH.
_USUAL_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, slots=True)
class Started:
    """What is started for a handler.

    Attributes:
        handler: the handler.
        path: the program; empty where it is not there, or not known.
        problem: why no pod can be started with it, or why that is not known; empty: one can.
    """

    handler: Handler
    path: str = ""
    problem: str | Unread = ""


def find(files: HostFiles, handlers: Sequence[Handler], processes: Processes) -> tuple[Started, ...]:
    """Look for the program of each handler, as its container runtime does."""
    return tuple(_started(files, handler, processes) for handler in handlers)


def _started(files: HostFiles, handler: Handler, processes: Processes) -> Started:
    if handler.shim.startswith("/"):
        problem = _wrong_with(files, handler.shim)
        return Started(handler, "" if problem else handler.shim, problem)
    if not handler.program:
        return Started(handler, problem=f"its runtime type {handler.type!r} names no program")
    running = processes.named(handler.engine)
    folders: list[str] = []
    for process in running:
        seen = _folders(files, process)
        if isinstance(seen, Unread):
            return Started(handler, problem=seen)
        folders += seen
    for folder in dict.fromkeys(folders or _USUAL_PATH):
        path = f"{folder}/{handler.program}"
        if not _wrong_with(files, path):
            return Started(handler, path)
    where = ", ".join(dict.fromkeys(folders or _USUAL_PATH))
    problem = f"{handler.program} is in none of {where}"
    if running:
        return Started(handler, problem=f"{problem} (PATH of {handler.engine}, and its own folder)")
    reason = processes.problem or f"no {handler.engine} runs whose PATH could be read"
    return Started(handler, problem=Unread(f"{problem}; {reason}"))


def _folders(files: HostFiles, process: Process) -> list[str] | Unread:
    """Give where a running container runtime looks, in its order."""
    environment = files.data(f"/proc/{process.pid}/environ")
    if isinstance(environment, Unread):
        return environment
    variables = (environment or b"").decode(errors="replace").split("\0")
    path = next((word.partition("=")[2] for word in variables if word.startswith("PATH=")), "")
    own = files.followed(f"/proc/{process.pid}/exe")
    return [folder for folder in (*path.split(":"), str(PurePosixPath(own).parent)) if folder.startswith("/")]


def _wrong_with(files: HostFiles, path: str) -> str | Unread:
    """Say why a program cannot be started; empty: it can."""
    status = files.status(path)
    if isinstance(status, Unread):
        return status
    if status is None:
        return f"{path} is missing"
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        return f"{path} is no executable file"
    return ""


@PROGRAMS.add(
    "kata-shim",
    "the shim that containerd or CRI-O starts for each handler",
    Harm.PODS,
    "A handler whose shim is not there starts no pod at all.",
)
def shim(node: Node) -> Iterator[Result]:
    """Say which program it is, or why there is none."""
    for one in node.kata.started:
        subject, source = f"handler {one.handler.name}", one.handler.source
        if isinstance(one.problem, Unread):
            yield unknown(subject, f"{source}: {one.problem.reason}", "run doctor as root on the node")
        elif one.problem:
            yield failure(
                subject,
                f"{source}: {one.problem}",
                "correct the handler's runtime_path, or install Kata again",
            )
        else:
            yield ok(subject, f"{source}: starts {one.path}")
