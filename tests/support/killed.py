"""Tools that die in the middle of their work: before their n-th write, the same one each time."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long

# <linux/ptrace.h>
_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_TRACESYSGOOD, _EXITKILL = 1, 1 << 20
_ENTRY = 1

# <asm/unistd.h>: write, ioctl, pwrite64, fallocate
_WRITE, _IOCTL, _PWRITE, _FALLOCATE = {
    "x86_64": (1, 16, 18, 285),
    "aarch64": (64, 29, 68, 47),
}.get(platform.machine(), (0, 0, 0, 0))
_BLKDISCARD, _BLKZEROOUT = 0x1277, 0x127F


def killed_at_write(argv: Sequence[str | Path], number: int) -> bool:
    """Run a tool and kill it before its n-th change of a file or device; False: it ended before that."""
    if not _WRITE:
        pytest.skip(f"the system calls of {platform.machine()} are not known here")
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: _ptrace(_TRACEME, 0, 0, 0),  # noqa: PLW1509 -- the tests have no other threads
    ) as process:  # fmt: skip
        os.waitpid(process.pid, 0)  # it stops at its first instruction
        _ptrace(_SETOPTIONS, process.pid, 0, _TRACESYSGOOD | _EXITKILL)
        pending = 0
        while True:
            _ptrace(_SYSCALL, process.pid, 0, pending)
            _, status = os.waitpid(process.pid, 0)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                process.returncode = os.waitstatus_to_exitcode(status)
                assert process.returncode == 0, f"{argv[0]} ended with {process.returncode}"
                return False
            pending = os.WSTOPSIG(status)
            if pending == signal.SIGTRAP | 0x80:
                pending = 0
                number -= _changes_something(process.pid)
                if number == 0:
                    process.kill()
                    process.wait()
                    return True


def _changes_something(pid: int) -> bool:
    """Whether the process is about to write to what is no standard stream, or to zero or discard blocks."""
    info = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    if info.raw[0] != _ENTRY:
        return False
    # struct ptrace_syscall_info: op, 3 pad, arch, instruction pointer, stack pointer, nr, args[6]
    call, descriptor, second = struct.unpack_from("=QQQ", info, 24)
    if call == _IOCTL:
        return second in (_BLKDISCARD, _BLKZEROOUT)
    return call in (_WRITE, _PWRITE, _FALLOCATE) and descriptor > 2


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
