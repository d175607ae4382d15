"""User-mode Linux, an engine of the lab: a kernel that is a process of this machine and needs no KVM.

Its root is this machine's by hostfs; tools/lab_uml_init.sh is its first process.

Standard library only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import lab_packages
from debian_packages import find

if TYPE_CHECKING:
    from lab_machine import Machine

INIT = Path(__file__).resolve().parent / "lab_uml_init.sh"


@dataclass(frozen=True)
class UserModeLinux:
    """The engine."""

    preloaded: Path | None = None
    """A library without which it does not run on this processor."""
    name: ClassVar = "uml"
    output: ClassVar = "/dev/tty1"
    init: ClassVar = INIT

    def nodes(self, disks: int) -> list[str]:
        """Return the devices of so many disks."""
        return [f"/dev/{_disk(number)}" for number in range(disks)]

    def modules(self) -> Path:
        """Return the folder with the kernel's modules, for modprobe.

        Raises:
            Unavailable: the kernel cannot be had.
        """
        return find(lab_packages.KERNEL.tree(), "/usr/lib/uml/modules")

    def boot(self, machine: Machine, folder: Path, disks: list[Path]) -> bool:
        """Run a machine until it is off, its command's output on our standard output.

        Return whether that was in time. Whatever comes, no process of it is left afterwards.
        """
        output, console = os.pipe()
        with (folder / "log").open("wb") as chatter:
            kernel = subprocess.Popen(
                [*_arguments(machine, folder, disks), f"con1=null,fd:{console}"],
                env=self._environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=chatter,
                stderr=chatter,
                pass_fds=[console],
                start_new_session=True,
            )
        os.close(console)
        try:
            return _pass_on(output, kernel, time.monotonic() + machine.timeout_s)
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


def _disk(number: int) -> str:
    return f"ubd{chr(ord('a') + number)}"


def _arguments(machine: Machine, folder: Path, disks: list[Path]) -> list[str]:
    """Return the kernel's command line, without the second console."""
    return [
        str(find(lab_packages.KERNEL.tree(), "/usr/bin/linux.uml")),
        *(f"mem={machine.memory >> 20}M", "quiet", f"uml_dir={folder}/"),
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={folder}/init", f"lab={folder}"),
        # 512 device nodes that nobody opens, and that every LVM command would look at.
        "pty.legacy_count=0",
        *("con=null", "con0=null,fd:1"),
        *(f"{_disk(number)}={disk}" for number, disk in enumerate(disks)),
    ]
