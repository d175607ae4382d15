"""Starts a program, while our other threads go on; private to `katacsi.host._child`.

`subprocess` holds Python's lock from fork to exec, and exec waits for the disk that the program lies on: so
long no other thread runs, the event loop's included. posix_spawn(3) by ctypes lets go of the lock. Python's
own `os.posix_spawn` does not, and knows no folder to start in.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# <spawn.h>, the same numbers in glibc and musl.
_POSIX_SPAWN_SETSIGDEF = 0x04
_POSIX_SPAWN_SETSID = 0x80

#: Room for any of posix_spawnattr_t (336 bytes in glibc), posix_spawn_file_actions_t (80) and sigset_t (128).
_Opaque = ctypes.c_ulong * 128

#: Signals that Python ignores for itself; a program expects them to end it.
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


def start(
    executable: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
) -> int:
    """Start a program in a session of its own, in the root directory, with three descriptors and no others.

    Gives its process id; whoever calls collects it. The descriptors are the caller's to close.

    Raises:
        OSError: it could not be started.
        ValueError: a word holds a zero byte.
    """
    # Where one of the three is a standard descriptor itself, their order matters; subprocess knows how.
    if _native is None or min(stdin, stdout, stderr) <= 2:
        process = subprocess.Popen(
            argv,
            executable=executable,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        process.returncode = 0  # so that subprocess does not collect it as well
        return process.pid
    return _native.start(executable, argv, environment, (stdin, stdout, stderr))


class _Native:
    """posix_spawn(3) with what glibc 2.34 and later have besides.

    Raises:
        AttributeError: this C library lacks some of it.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)  # a call through CDLL lets go of Python's lock
        self._spawn = libc.posix_spawn
        self._spawn.argtypes = (ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, *[ctypes.c_void_p] * 4)
        self._init = libc.posix_spawn_file_actions_init
        self._destroy = libc.posix_spawn_file_actions_destroy
        self._dup2 = libc.posix_spawn_file_actions_adddup2
        self._chdir = libc.posix_spawn_file_actions_addchdir_np
        self._close_from = libc.posix_spawn_file_actions_addclosefrom_np
        self._attributes = _Opaque()
        defaults = _Opaque()
        libc.sigemptyset(defaults)
        for number in _IGNORED_BY_PYTHON:
            libc.sigaddset(defaults, ctypes.c_int(number))
        _check(libc.posix_spawnattr_init(self._attributes))
        _check(libc.posix_spawnattr_setsigdefault(self._attributes, defaults))
        flags = ctypes.c_short(_POSIX_SPAWN_SETSID | _POSIX_SPAWN_SETSIGDEF)
        _check(libc.posix_spawnattr_setflags(self._attributes, flags))

    def start(
        self, executable: str, argv: Sequence[str], environment: Mapping[str, str], standard: tuple[int, ...]
    ) -> int:
        """Start a program; the three descriptors are none of the standard ones."""
        program = os.fsencode(executable)
        words = _strings(argv)
        variables = _strings(f"{name}={value}" for name, value in environment.items())
        pid = ctypes.c_int()
        actions = _Opaque()
        _check(self._init(actions))
        try:
            for target, source in enumerate(standard):
                _check(self._dup2(actions, source, target))
            _check(self._close_from(actions, 3))
            _check(self._chdir(actions, b"/"))
            _check(self._spawn(pid, program, actions, self._attributes, words, variables), executable)
        finally:
            self._destroy(actions)
        return pid.value


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [os.fsencode(text) for text in texts]
    if any(0 in text for text in encoded):
        raise ValueError("embedded null byte")  # C would take the text to end there
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded)


def _check(error: int, path: str | None = None) -> None:
    if error:
        raise OSError(error, os.strerror(error), path)


try:
    _native: _Native | None = _Native()
except AttributeError:  # musl, or a glibc before 2.34
    _native = None
