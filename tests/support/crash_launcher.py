"""A driver that kills itself at a chosen step: the process that the crash tests start.

It imports the driver once, wraps every step at which the driver changes something, and then waits as a
zygote: each request forks a child that serves. A start costs a few milliseconds that way, and the shipped
code holds no hook.

A step is a call of a public function of `katacsi.host`, wherever the function is bound, or a kernel call
with an effect that such a function makes. Steps are numbered from the moment at which a test arms the switch,
so the RPCs before the one under test do not count. `support.zygote` is the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import inspect
import json
import mmap
import os
import pkgutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: The switch: armed, name of the step to die at (empty: only list the steps) and which of that name, when,
#: steps so far, and for `TORN` the microseconds that a tool is given. By name, not by number: when another
#: process takes the loop device that was free just now, the driver tries the next one, and the numbers shift.
SWITCH = struct.Struct("=4i64si")
#: `AFTER` the start of a tool leaves the tool running, as on a plain host; `TORN` takes it along after a
#: moment, as the end of a container does.
BEFORE, AFTER, TORN = 0, 1, 2

#: Steps that occur as often as the filesystem has laid out extents: the first ones stand for all.
_REPEATED = {"os.copy_file_range": 3}

#: The room with the side effects.
_HOST = "katacsi.host"

#: Kernel calls with an effect, in modules of that room that are not public.
_KERNEL_CALLS = {
    "katacsi.host._linux": (
        "mount", "umount", "clone_mount", "attach_mount", "set_mount_attributes", "fallocate",
        "rename_noreplace",
    ),
}  # fmt: skip
#: And of Python's own modules; counted where the room calls them, and nowhere else. Not fsync: a process
#: that dies takes nothing from the page cache.
_OS_CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("mkdir", "rmdir", "unlink", "rename", "open", "chown")),
    (os, ("ftruncate", "pwrite", "copy_file_range", "sendfile")),
    (fcntl, ("ioctl",)),
    (subprocess, ("Popen",)),
)  # fmt: skip

#: ioctls that only ask: LOOP_GET_STATUS64, LOOP_CTL_GET_FREE, BLKROGET, BLKSSZGET, BLKGETSIZE64.
_ASKING = {0x4C05, 0x4C82, 0x125E, 0x1268, 0x80081272}

#: Public functions that only look or calculate, or only carry a step to a thread: a crash around one of them
#: leaves what a crash after the step before leaves.
_LOOKS = {
    "block": {"size_bytes", "is_read_only", "device_number", "ends_are_zero"},
    "command": {"observe"},
    "directories": {"in_memory", "list_directory", "identity", "is_mount_point", "room", "settled_room"},
    "files": {"read"},
    "growth": {"fills"},
    "loop": {"available"},
    "mkfs": {"minimum_size", "validate_options"},
    "mount": {"usage"},
    "sizedfiles": {"has_data", "is_shared"},
}
#: Modules of which that is true as a whole.
_LOOKING = {
    "devicemapper", "holders", "loopdevices", "mountoptions", "mounttable", "offloop", "processes",
    "processor", "superblock",
}  # fmt: skip


class Switch:
    """Shared memory that a test writes and each step reads."""

    def __init__(self, file: Path, steps: Path) -> None:
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), SWITCH.size)
        self._steps = steps
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}

    def enter(self, name: str) -> tuple[str, int]:
        """Count a step that begins; give which of its name it is, 0 where nobody counts."""
        if not self._memory[0]:
            return name, 0
        with self._lock:
            armed, occurrence, when, count, wanted, delay_us = SWITCH.unpack_from(self._memory)
            if not armed:
                return name, 0
            if count == 0:
                self._seen.clear()
            number = self._seen[name] = self._seen.get(name, 0) + 1
            if number > _REPEATED.get(name, number):
                return name, 0
            SWITCH.pack_into(self._memory, 0, armed, occurrence, when, count + 1, wanted, delay_us)
            if not occurrence:
                with self._steps.open("a") as steps:
                    steps.write(f"{name}\n")
        if (when, number, name) == (BEFORE, occurrence, _text(wanted)):
            _die()
        return name, number

    def leave(self, step: tuple[str, int], tool: subprocess.Popen[bytes] | None = None) -> None:
        """Come to the end of a step, however it ended."""
        if not step[1] or not self._memory[0]:
            return
        armed, occurrence, when, _, wanted, delay_us = SWITCH.unpack_from(self._memory)
        if not armed or step != (_text(wanted), occurrence):
            return
        if when == AFTER:
            _die()
        if when == TORN and tool is not None:
            time.sleep(delay_us / 1e6)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)
            tool.wait()
            _die()


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode()


_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_libc = ctypes.CDLL(None)

_switch: Switch | None = None
_Popen = subprocess.Popen  # the class; its name is bound to a wrapper later


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")


# -- wrapping ------------------------------------------------------------------------------------------


def instrument() -> list[str]:
    """Wrap all steps; give their names."""
    host = importlib.import_module(_HOST)
    modules = [
        importlib.import_module(info.name) for info in pkgutil.iter_modules(host.__path__, f"{_HOST}.")
    ]
    replaced: dict[int, tuple[Any, Any]] = {}
    names = []
    for module in modules:
        short = module.__name__.rpartition(".")[2]
        kernel = _KERNEL_CALLS.get(module.__name__, ())
        for name, found in list(vars(module).items()):
            if not inspect.isfunction(found) or found.__module__ != module.__name__ or name.startswith("_"):
                continue
            step = f"{short}.{name}"
            if short.startswith("_") and name not in kernel:
                continue
            if short in _LOOKING or name in _LOOKS.get(short, ()):
                continue
            replaced[id(found)] = (found, _wrapped(step, found))
            names.append(step)
    _rebind(replaced)
    for module, calls in _OS_CALLS:
        for name in calls:
            setattr(module, name, _wrapped_call(f"{module.__name__}.{name}", getattr(module, name)))
    return names


def _rebind(replaced: dict[int, tuple[Any, Any]]) -> None:
    """Put the wrappers wherever the driver has the functions: modules, classes, tables."""
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "katacsi"]:
        for name, value in list(vars(module).items()):
            if id(value) in replaced:
                setattr(module, name, replaced[id(value)][1])
            elif inspect.isclass(value) and value.__module__ == module.__name__:
                for inner, held in list(vars(value).items()):
                    if id(held) in replaced:
                        setattr(value, inner, replaced[id(held)][1])
            elif type(value) is dict:
                for key, held in list(value.items()):
                    if id(held) in replaced:
                        value[key] = replaced[id(held)][1]
    still = {name for original, wrapper in replaced.values() for name in _places(original, wrapper)}
    assert not still, f"bound where the launcher cannot reach: {still}"


def _places(original: Any, wrapper: Any) -> Iterable[str]:
    """Name the containers that still hold an unwrapped function."""
    for holder in gc.get_referrers(original):
        if isinstance(holder, dict | list | tuple) and holder is not vars(wrapper):
            if isinstance(holder, dict) and holder.get("__wrapped__") is original:
                continue
            if isinstance(holder, tuple) and wrapper in holder:  # `replaced` itself
                continue
            yield original.__qualname__


def _wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            assert _switch is not None
            step = _switch.enter(name)
            try:
                return await function(*args, **kwargs)
            finally:
                _switch.leave(step)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            assert _switch is not None
            step = _switch.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                _switch.leave(step)

    return wrapper


def _wrapped_call(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if _switch is None or not sys._getframe(1).f_globals.get("__name__", "").startswith(_HOST):
            return function(*args, **kwargs)
        shown = name
        if name == "subprocess.Popen":
            shown = f"start of {args[0][0].rpartition('/')[2]}"
        elif name == "fcntl.ioctl":
            if args[1] in _ASKING:
                return function(*args, **kwargs)
            shown = f"ioctl {args[1]:#x}"
        elif name == "os.open" and not args[1] & os.O_CREAT:
            return function(*args, **kwargs)
        step = _switch.enter(shown)
        made = None
        try:
            made = function(*args, **kwargs)
            return made
        finally:
            _switch.leave(step, made if isinstance(made, _Popen) else None)

    return call


# -- the zygote ----------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests, a line of JSON each: `start` forks a driver, `wait` tells how one ended."""
    for name in ("katacsi.app", "katacsi.backends.loopfile", "katacsi.csi.client"):
        importlib.import_module(name)
    # Tools are started by subprocess here, as with an older C library, since its Popen is what is wrapped.
    importlib.import_module(f"{_HOST}._spawn")._native = None
    names = instrument()
    gc.collect()
    gc.freeze()  # the collector of a child would copy every page by looking at it
    children: set[int] = set()
    _answer({"steps": names})
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "start":
                pid = os.fork()
                if pid == 0:
                    _serve(request)
                children.add(pid)
                _answer({"pid": pid})
            else:
                _, status = os.waitpid(request["pid"], 0)
                children.discard(request["pid"])
                _answer({"status": os.waitstatus_to_exitcode(status)})
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _serve(request: dict[str, str]) -> NoReturn:
    global _switch  # noqa: PLW0603 -- one process, one switch
    code = 1
    try:
        # Its own process group: a terminal's Ctrl-C is for pytest, which then stops the driver in order. But
        # not longer than the zygote, even if pytest and the zygote are killed together.
        os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.close(null)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- the old object holds a read-ahead of the pipe
        _switch = Switch(Path(request["switch"]), Path(request["steps"]))
        from katacsi import app, settings

        app.run(
            settings.load(Path(request["config"]), {}),
            socket=Path(request["socket"]),
            node_id=request["node"],
        )
        code = 0
    except BaseException:  # noqa: BLE001 -- a fork must never return into its parent's code
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
