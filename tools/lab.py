#!/usr/bin/env python3
"""Run a command as root on a machine of its own, with device-mapper and every capability.

    python tools/lab.py run -- .venv/bin/python -m pytest tests/lab/inside
    python tools/lab.py run --disk 1G --disk 1G -- bash -c 'vgcreate vg /dev/ubda /dev/ubdb && vgs'
    python tools/lab.py prepare      # fetch what it needs, and print where it is

The machine is user-mode Linux: a kernel that is a process of this machine, needs no KVM and no root, and is up
in a few seconds. Its root is this machine's: every path is the same and readable, what it writes stays in its memory.
Only a folder given with `--share` is written through. Its kernel and the tools that this machine lacks come from
tools/lab_packages.py.

The exit code is the command's; 124 when the time was up, 125 when the machine failed (then its log is printed).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import lab_packages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

TOOLS = Path(__file__).resolve().parent
TIME_WAS_UP = 124  # as timeout(1) says it
MACHINE_FAILED = 125
_UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Machine:
    """What a machine is like, and what it runs."""

    command: list[str]
    disks: tuple[int, ...] = ()
    """Sizes of the empty disks /dev/ubda, /dev/ubdb …; files with holes on this machine."""
    shared: tuple[Path, ...] = ()
    """Folders of this machine that it may write to."""
    environment: dict[str, str] = field(default_factory=dict)
    memory: int = 2 << 30
    timeout_s: float = 600

    def run(self) -> int:
        """Boot, run the command with its output on our standard output, and return its exit code.

        Raises:
            lab_packages.Unavailable: there is no kernel to boot.
        """
        tree = lab_packages.guest_tree()
        # On a disk: the files of the disks may become large, and /tmp may be memory.
        with tempfile.TemporaryDirectory(prefix="katacsi-lab-", dir="/var/tmp") as name:
            folder = Path(name)
            (folder / "settings").write_text(self._settings(tree), "utf-8")
            shutil.copy(TOOLS / "lab_init.sh", folder / "init")
            with (folder / "log").open("wb") as log, _kernel(self._arguments(tree, folder), log) as process:
                in_time = process.pass_on(self.timeout_s)
            status = folder / "status"
            if in_time and status.exists() and (said := status.read_text().strip()).isdigit():
                return int(said)
            log_text = (folder / "log").read_text("utf-8", "replace")
        fault = "failed" if in_time else f"was ended after {self.timeout_s:.0f} s"
        print(f"lab: the machine {fault}; the end of its log:\n{log_text[-4000:]}", file=sys.stderr)
        return MACHINE_FAILED if in_time else TIME_WAS_UP

    def _settings(self, tree: Path) -> str:
        """Return the file that tools/lab_init.sh reads."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "KATACSI_CACHE": str(lab_packages.CACHE.resolve()),
            **self.environment,
        }

        def array(values: Iterator[str]) -> str:
            return f"({' '.join(map(shlex.quote, values))})"

        return (
            f"LAB_TREE={shlex.quote(str(tree))}\n"
            f"LAB_FOLDER={shlex.quote(str(Path.cwd()))}\n"
            f"LAB_TIMEOUT={self.timeout_s}\n"
            f"LAB_SHARED={array(str(path.resolve()) for path in self.shared)}\n"
            f"LAB_ENVIRONMENT={array(f'{name}={value}' for name, value in environment.items())}\n"
            f"LAB_COMMAND={array(iter(self.command))}\n"
        )

    def _arguments(self, tree: Path, folder: Path) -> list[str]:
        """Return the kernel's command line, and make the disks it names."""
        kernel = tree / "usr/bin/linux.uml"
        arguments = [
            str(kernel if kernel.exists() else Path("/usr/bin/linux.uml")),
            f"mem={self.memory >> 20}M",
            f"uml_dir={folder}/",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet",
            f"init={folder}/init",
            f"lab={folder}",
            "con=null", "con0=null,fd:1",
        ]  # fmt: skip
        for number, size in enumerate(self.disks):
            file = folder / f"disk{number}"
            with file.open("wb") as disk:
                disk.truncate(size)
            arguments.append(f"ubd{chr(ord('a') + number)}={file}")
        return arguments


class _Kernel:
    """A running kernel, and the pipe that its command's output comes through."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.output = output

    def pass_on(self, timeout_s: float) -> bool:
        """Copy the output to ours until the machine is off; tell whether that was in time."""
        end = time.monotonic() + timeout_s
        while True:
            ended = self.process.poll() is not None
            # Once it is off, what is in the pipe is all there is: helpers of the kernel may keep it open.
            if select.select([self.output], [], [], 0 if ended else 0.2)[0]:
                if piece := os.read(self.output, 1 << 16):
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
                    continue
            if ended:
                return True
            if time.monotonic() > end:
                return False


@contextlib.contextmanager
def _kernel(arguments: list[str], log: object) -> Iterator[_Kernel]:
    """Start a kernel; whatever comes, at the end none of its processes is left."""
    output, ours = os.pipe()
    environment = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TMP", "TEMP")}
    if (shm := shutil.disk_usage("/dev/shm")).free < shm.total // 2:
        pass
    process = subprocess.Popen(arguments)
    yield _Kernel(process, output)
