#!/usr/bin/env python3
"""Run a command as root on a machine of its own, with device-mapper and every capability.

    python tools/lab.py run -- .venv/bin/python -m pytest tests/lab/inside
    python tools/lab.py run --disk 1G --disk 1G -- bash -c 'vgcreate vg /dev/ubda /dev/ubdb && vgs'
    python tools/lab.py prepare      # fetch what it needs, and print where that is

The machine is user-mode Linux: a kernel that is a process of this machine, needs no KVM and is up in seconds.
Its root is this machine's: every path is the same and readable, and what it writes stays in its memory. Only
a folder given with `--share` is written through. Its kernel, and the tools that this machine lacks, come from
tools/lab_packages.py.

The exit code is the command's; 124 when the time was up, 125 when the machine failed and its log is printed.
Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import re
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
    from collections.abc import Iterable

TOOLS = Path(__file__).resolve().parent
TIME_WAS_UP = 124  # as timeout(1) has it
MACHINE_FAILED = 125
#: On a disk: the files behind the machine's disks may become large, and /tmp may be memory.
RUNS = Path("/var/tmp")


@dataclass(frozen=True)
class Machine:
    """What a machine is like, and what it runs."""

    command: list[str]
    disks: tuple[int | Path, ...] = ()
    """The disks /dev/ubda, /dev/ubdb …: sizes of empty ones, or files, which keep what is written to them."""
    shared: tuple[Path, ...] = ()
    """Folders of this machine that it may write to."""
    environment: dict[str, str] = field(default_factory=dict)
    udev: bool = True
    """Whether udev runs. Without it LVM makes the nodes of its devices itself."""
    memory: int = 2 << 30
    timeout_s: float = 600

    def run(self) -> int:
        """Boot, run the command with its output on our standard output, and return its exit code.

        Raises:
            lab_packages.Unavailable: there is no kernel to boot.
        """
        tree = lab_packages.guest_tree()
        with tempfile.TemporaryDirectory(prefix="katacsi-lab-", dir=RUNS) as name:
            folder = Path(name)
            # hostfs writes as us: into a folder of nobody else.
            (folder / "settings").write_text(self._settings(tree), "utf-8")
            shutil.copy(TOOLS / "lab_init.sh", folder / "init")
            in_time = _boot(self._arguments(tree, folder), folder / "log", self.timeout_s)
            with contextlib.suppress(OSError, ValueError):
                return int((folder / "status").read_text("utf-8"))
            log = (folder / "log").read_text("utf-8", "replace")
        fault = "failed" if in_time else f"was ended after {self.timeout_s:.0f} s"
        print(f"lab: the machine {fault}; the end of its log:\n{log[-4000:].rstrip()}", file=sys.stderr)
        return MACHINE_FAILED if in_time else TIME_WAS_UP

    def _settings(self, tree: Path) -> str:
        """Return the file that tools/lab_init.sh reads: assignments of bash."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "KATACSI_CACHE": str(lab_packages.CACHE.resolve()),
            **({} if self.udev else {"DM_DISABLE_UDEV": "1"}),
            **self.environment,
        }
        return (
            f"LAB_TREE={shlex.quote(str(tree))}\n"
            f"LAB_FOLDER={shlex.quote(str(Path.cwd()))}\n"
            f"LAB_TIMEOUT={self.timeout_s}\n"
            f"LAB_UDEV={'yes' if self.udev else ''}\n"
            f"LAB_SHARED={_array(str(path.resolve()) for path in self.shared)}\n"
            f"LAB_ENVIRONMENT={_array(f'{name}={value}' for name, value in environment.items())}\n"
            f"LAB_COMMAND={_array(self.command)}\n"
        )

    def _arguments(self, tree: Path, folder: Path) -> list[str]:
        """Return the kernel's command line, after making the disks that it names."""
        kernel = tree / "usr/bin/linux.uml"
        arguments = [
            str(kernel if kernel.exists() else "/usr/bin/linux.uml"),
            *(f"mem={self.memory >> 20}M", "quiet", f"uml_dir={folder}/"),
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
            *(f"init={folder}/init", f"lab={folder}"),
            # 512 device nodes that nobody opens, and that every LVM command would look at.
            "pty.legacy_count=0",
            *("con=null", "con0=null,fd:1"),
        ]
        for number, disk in enumerate(self.disks):
            if isinstance(disk, Path):
                file = disk.resolve()
            else:
                file = folder / f"disk{number}"
                with file.open("wb") as empty:
                    empty.truncate(disk)
            arguments.append(f"ubd{chr(ord('a') + number)}={file}")
        return arguments


def _boot(arguments: list[str], log: Path, timeout_s: float) -> bool:
    """Run a kernel until it is off, its second console on our standard output; tell whether that was in time.

    Whatever comes, no process of it is left afterwards.
    """
    _stay_on_one_processor()
    output, console = os.pipe()
    with log.open("wb") as chatter:
        kernel = subprocess.Popen(
            [*arguments, f"con1=null,fd:{console}"],
            env=_environment(),
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


def _environment() -> dict[str, str]:
    """Return the kernel's environment: TMPDIR is where its memory lies, a file that grows as it is used."""
    environment = {name: value for name, value in os.environ.items() if name not in {"TMPDIR", "TMP", "TEMP"}}
    # A container's /dev/shm is often of 64 MiB; the kernel would die at the first page that does not fit.
    if not Path("/dev/shm").is_dir() or shutil.disk_usage("/dev/shm").free < 1 << 30:
        environment["TMPDIR"] = str(RUNS)
    return environment


def _array(values: Iterable[str]) -> str:
    """Return an array of bash."""
    return f"({' '.join(map(shlex.quote, values))})"


def size_bytes(text: str) -> int:
    """Return the bytes of 512M, 1G or 2T."""
    if not (match := re.fullmatch(r"(\d+)([MGT])", text)):
        raise argparse.ArgumentTypeError(f"{text} is no size: say 512M or 1G")
    return int(match[1]) << {"M": 20, "G": 30, "T": 40}[match[2]]


def disk(text: str) -> int | Path:
    """Return the file that is named, or the size of an empty disk."""
    return Path(text) if "/" in text and Path(text).is_file() else size_bytes(text)


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE")
    return name, value


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run a command in the lab; exit code 125 and one line of reason when there is no lab here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="fetch what the lab needs, and print where that is")
    run = verbs.add_parser("run", help="run a command in it: run [option …] -- command …")
    run.add_argument("--disk", type=disk, action="append", default=[], help="an empty disk: 1G; or a file")
    run.add_argument("--share", type=Path, action="append", default=[], help="a folder it may write to")
    run.add_argument("--env", type=_assignment, action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--no-udev", dest="udev", action="store_false", help="do not run udev in it")
    run.add_argument("--memory", type=size_bytes, default="2G", help="2G, unless said otherwise")
    run.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds until it is ended")
    run.add_argument("command", nargs="+")
    asked = parser.parse_args()
    # So that the machine is ended when we are.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        if asked.verb == "prepare":
            print(lab_packages.guest_tree())
            return 0
        return Machine(
            command=asked.command,
            disks=tuple(asked.disk),
            shared=tuple(asked.share),
            environment=dict(asked.env),
            udev=asked.udev,
            memory=asked.memory,
            timeout_s=asked.timeout,
        ).run()
    except lab_packages.Unavailable as error:
        print(f"lab: {error}", file=sys.stderr)
        return MACHINE_FAILED


if __name__ == "__main__":
    sys.exit(main())
