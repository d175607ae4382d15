"""User-mode Linux, an engine of the lab: a kernel that is a process of this machine and needs no KVM.

Its root is this machine's by hostfs; tools/lab_init.sh is its first process.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class UserModeLinux:
    """The engine."""

    preloaded: Path | None = None
    """A library without which it does not run on this processor."""
    name: ClassVar = "uml"

    def boot(self, tree: Path, folder: Path, disks: list[Path], memory: int, timeout_s: float) -> bool:
        """Run a machine until it is off, its command's output on our standard output.

        Return whether that was in time. Whatever comes, no process of it is left afterwards.
        """
        _stay_on_one_processor()
        output, console = os.pipe()
        with (folder / "log").open("wb") as chatter:
            kernel = subprocess.Popen(
                [*_arguments(tree, folder, disks, memory), f"con1=null,fd:{console}"],
                env=self._environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=chatter,
                stderr=chatter,
                pass_fds=[console],
                start_new_session=True,
            )
        os.close(console)
        try:
            return _pass_on(output, kernel, time.monotonic() + timeout_s)
        finally:
            os.close(output)
            # Its helpers and its processes' stubs are in its group. Not reaped yet, it still owns the number.
            os.killpg(kernel.pid, signal.SIGKILL)
            kernel.wait()

    def _environment(self, folder: Path) -> dict[str, str]:
        """Return the kernel's environment; TMPDIR is where its memory lies, a file that grows."""
        not_ours = {"TMPDIR", "TMP", "TEMP", "LD_PRELOAD"}
        environment = {name: value for name, value in os.environ.items() if name not in not_ours}
        if self.preloaded:
            environment["LD_PRELOAD"] = str(self.preloaded)
        # A container's /dev/shm is often of 64 MiB; the kernel would die at the first page that does not fit.
        if not Path("/dev/shm").is_dir() or shutil.disk_usage("/dev/shm").free < 1 << 30:
            environment["TMPDIR"] = str(folder)
        return environment


def _stay_on_one_processor() -> None:
    """Keep this process, and the machine that it starts, on one processor, and other machines off it.

    The machine has one processor only, and each of its system calls goes back and forth between two processes
    of this machine. Across processors that takes three to four times as long.
    """
    allowed = sorted(os.sched_getaffinity(0))
    for number in allowed:
        with contextlib.suppress(OSError):
            # Kept open, and so locked, for as long as this process lives.
            folder = os.open(f"/sys/devices/system/cpu/cpu{number}", os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
    else:
        number = random.choice(allowed)
    os.sched_setaffinity(0, {number})


def _pass_on(output: int, kernel: subprocess.Popen[bytes], end: float) -> bool:
    """Copy a kernel's output to ours until it is off; tell whether that was before the end."""
    while True:
        # Not poll(): that would reap it, and its number would be free for another group.
        off = os.waitid(os.P_PID, kernel.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        # Once it is off, what the pipe holds is all there is, even if a helper keeps the other end open.
        if select.select([output], [], [], 0 if off else 0.1)[0] and (piece := os.read(output, 1 << 16)):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        elif off:
            return True
        elif time.monotonic() > end:
            return False


def _arguments(tree: Path, folder: Path, disks: list[Path], memory: int) -> list[str]:
    """Return the kernel's command line, without the second console."""
    kernel = tree / "usr/bin/linux.uml"
    return [
        str(kernel if kernel.exists() else "/usr/bin/linux.uml"),
        *(f"mem={memory >> 20}M", "quiet", f"uml_dir={folder}/"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={folder}/init", f"lab={folder}"),
        # 512 device nodes that nobody opens, and that every LVM command would look at.
        "pty.legacy_count=0",
        *("con=null", "con0=null,fd:1"),
        *(f"ubd{chr(ord('a') + number)}={disk}" for number, disk in enumerate(disks)),
    ]
