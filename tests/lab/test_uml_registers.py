"""tools/lab_uml_registers.c: registers can be set from a buffer that is smaller than the processor's area."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

import lab_uml_registers

#: Stops a child, reads its extended registers, changes XMM0 and sets only the oldest part of them, which is
#: all that every processor has; prints what the kernel answered, and how much of the area is as it should be.
TRACER = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
TRACEME, GETREGSET, SETREGSET, XSTATE, OLDEST, XMM0 = 0, 0x4204, 0x4205, 0x202, 576, 160

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def transfer(request, buffer, size):
    vector = Vector(ctypes.addressof(buffer), size)
    code = libc.ptrace(request, child, XSTATE, ctypes.addressof(vector))
    return os.strerror(ctypes.get_errno()) if code else "done"

child = os.fork()
if child == 0:
    libc.ptrace(TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(child, 0)
area = ctypes.create_string_buffer(1 << 16)
assert transfer(GETREGSET, area, len(area)) == "done"
area[XMM0 : XMM0 + 8] = b"katacsi."
area[512] = bytes([area[512][0] | 2])  # XMM registers are in use
answer = transfer(SETREGSET, area, OLDEST)
now = ctypes.create_string_buffer(1 << 16)
assert transfer(GETREGSET, now, len(now)) == "done"
os.kill(child, signal.SIGKILL)
print(answer, now[XMM0 : XMM0 + 8] == b"katacsi.", now[OLDEST:] == area[OLDEST:])
"""


def test_what_is_set_is_laid_over_what_the_process_has():
    """The part that is given takes effect, the rest stays; without the library the kernel refuses."""
    if not shutil.which("cc") and os.geteuid() != 0:
        pytest.skip("cc not found: sudo apt-get install gcc libc6-dev")

    def traced(**environment: str) -> str:
        argv = [sys.executable, "-c", TRACER]
        return subprocess.run(
            argv, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    assert traced() == "Bad address False True"
    assert traced(LD_PRELOAD=str(lab_uml_registers.library())) == "done True True"
