"""Runs the host's tools: no shell, a fixed environment, an end in bounded time, nothing left behind.

A command blocks its caller from start to end, who is therefore in a thread. Of Python's ways this one costs
the event loop least: `asyncio.create_subprocess_exec` forks in the loop itself, so a hundred commands at
once stopped it for 60 ms, the threads for 2 ms, and it takes more processor time for each command.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import time
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from katacsi import tracing
from katacsi.errors import HostError
from katacsi.host import _child

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    #: Told the tool, the outcome (`ok` or `failed`) and the seconds of a command.
    Observer = Callable[[str, str, float], None]

#: All that a tool learns from us: its messages are English, its numbers plain, its tools the system's.
ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
)
#: Seconds between asking a command to end and killing it, and between killing it and giving it up.
GRACE_S: Final = 5.0
#: More than this many bytes of output are an error, since half an answer is none.
MAX_OUTPUT_BYTES: Final = 16 << 20
#: Of messages the first part is kept.
MAX_MESSAGE_BYTES: Final = 64 << 10

#: Tool to the Debian package that has it.
PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "blkid": "util-linux",
        "btrfstune": "btrfs-progs",
        "debugfs": "e2fsprogs",
        "dmsetup": "dmsetup",
        "e2fsck": "e2fsprogs",
        "kata-runtime": "kata-containers",
        "lvm": "lvm2",
        "mkfs.btrfs": "btrfs-progs",
        "mkfs.ext4": "e2fsprogs",
        "mkfs.xfs": "xfsprogs",
        "resize2fs": "e2fsprogs",
        "tune2fs": "e2fsprogs",
        "xfs_db": "xfsprogs",
        "xfs_logprint": "xfsprogs",
    }
)


def _nobody(tool: str, outcome: str, seconds: float) -> None:
    """Stand for an observer where nobody counts."""


_observer: Observer = _nobody


class CommandError(HostError):
    """A tool did not do what it was asked.

    Attributes:
        tool: its name.
        returncode: its exit code; negative for a signal.
        stderr: what it said.
    """

    def __init__(self, tool: str, returncode: int, fact: str, stderr: str = "") -> None:
        said = " ".join(stderr.split())
        super().__init__(f"{tool}: {fact}" + (f": {said}" if said else ""))
        self.tool = tool
        self.returncode = returncode
        self.stderr = stderr


class CommandTimeout(CommandError):
    """A tool was killed because it did not end in time. What it changed is unknown: look before going on."""


class MissingTool(HostError):
    """A tool is not installed; the message names the package that has it."""

    retry_helps: ClassVar[bool] = False

    def __init__(self, tool: str) -> None:
        package = PACKAGES.get(tool)
        remedy = f"; install the package {package} (Debian's name)" if package else ""
        super().__init__(f"{tool}: not found in {ENVIRONMENT['PATH']}{remedy}")
        self.tool = tool


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended with an exit code its caller accepts."""

    returncode: int
    stdout: bytes
    stderr: str


def observe(observer: Observer) -> None:
    """Have each command's end told: the tool, `ok` or `failed`, and its seconds. One observer a process."""
    global _observer  # noqa: PLW0603 -- commands are run from everywhere, and counted in one place
    _observer = observer


def require(tool: str) -> None:
    """Make sure that a tool is installed, before it is needed.

    Raises:
        MissingTool: it is not.
    """
    try:
        _find(tool, ENVIRONMENT["PATH"])
    except FileNotFoundError as error:
        raise MissingTool(tool) from error


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    ok: Collection[int] = (0,),
    stdin: bytes = b"",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Completed:
    """Run a command to its end.

    Only the timeout ends a command early. Processes that a command leaves in its session end with it.

    Args:
        argv: the tool and its arguments; a tool without a slash is looked for in `ENVIRONMENT["PATH"]`.
        timeout_s: seconds until the command's process group is sent SIGTERM, and `GRACE_S` later SIGKILL.
        ok: the exit codes that are no error.
        stdin: what the command reads; empty means /dev/null.
        environment: variables besides `ENVIRONMENT`.

    Raises:
        MissingTool: the tool is not installed.
        CommandTimeout: it was killed for lateness.
        CommandError: another exit code, or more than `MAX_OUTPUT_BYTES` of output.
    """
    words = [os.fspath(word) for word in argv]
    started, outcome = time.monotonic(), "failed"
    with tracing.span(_name(words)) as span:
        try:
            completed = _run(words, timeout_s, stdin, {**ENVIRONMENT, **environment})
            outcome = "ok" if completed.returncode in ok else "failed"
        finally:
            _observer(_name(words), outcome, time.monotonic() - started)
        span.tell({"process.exit.code": completed.returncode})
        if completed.returncode not in ok:
            raise CommandError(
                _name(words),
                completed.returncode,
                _ending(completed.returncode),
                completed.stderr or completed.stdout[:MAX_MESSAGE_BYTES].decode(errors="replace"),
            )
        return completed


def _run(argv: list[str], timeout_s: float, stdin: bytes, environment: dict[str, str]) -> Completed:
    tool = _name(argv)
    stdout, stderr = _child.Output(MAX_OUTPUT_BYTES), _child.Output(MAX_MESSAGE_BYTES)
    try:
        executable = _find(argv[0], environment["PATH"])
        child = _child.Child(executable, argv, environment, stdin, stdout=stdout, stderr=stderr)
    except FileNotFoundError as error:
        _find.cache_clear()
        raise MissingTool(tool) from error
    except OSError as error:
        raise HostError(f"{tool}: cannot be started: {error.strerror}") from error
    try:
        timely = child.ends_within(timeout_s)
        if not timely and not child.ended_by_force(GRACE_S):
            hung = f"no end after {timeout_s:g} s, nor by SIGKILL: its device hangs"
            raise CommandTimeout(tool, -signal.SIGKILL, hung)
        returncode = child.collect()
    finally:
        child.close()
    message = stderr.data.decode(errors="replace").strip()
    if not timely:
        raise CommandTimeout(tool, returncode, f"no end after {timeout_s:g} s, so it was stopped", message)
    if stdout.overflown:
        raise CommandError(tool, returncode, f"more than {MAX_OUTPUT_BYTES} bytes of output")
    return Completed(returncode, bytes(stdout.data), message)


@functools.lru_cache(maxsize=64)
def _find(tool: str, path: str) -> str:
    found = shutil.which(tool, path=path)
    if found is None:
        raise FileNotFoundError(tool)
    return found


def _name(argv: Sequence[str]) -> str:
    return argv[0].rpartition("/")[2]


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
