"""A machine of the lab: what it is like, what it runs, and what came of it.

An engine boots it (tools/lab_uml.py, tools/lab_qemu.py). Both meet in a folder of this machine. In go
`settings` and two scripts: the engine's `init`, which lays the root, and `inside`, which does the rest. Out
come `status`, the command's exit code, and `log`, the kernel's words.

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import lab_packages

if TYPE_CHECKING:
    from collections.abc import Iterable

INSIDE = Path(__file__).resolve().parent / "lab_inside.sh"
#: On a disk: the files behind the machine's disks may become large, and /tmp may be memory.
RUNS = Path("/var/tmp")


class Engine(Protocol):
    """What boots machines."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def output(self) -> str:
        """Where in the machine the command's output is to go: a console of its own, or a file."""

    @property
    def init(self) -> Path:
        """The script that lays the machine's root."""

    def nodes(self, disks: int) -> list[str]:
        """Return the devices of so many disks."""

    def modules(self) -> Path:
        """Return the folder with the kernel's modules, for modprobe.

        Raises:
            lab_packages.Unavailable: the kernel cannot be had.
        """

    def boot(self, machine: Machine, folder: Path, disks: list[Path]) -> bool:
        """Run a machine until it is off, its command's output on our standard output.

        Return whether that was in time. Whatever comes, no process of it is left afterwards.
        """


@dataclass(frozen=True)
class Result:
    """What came of a machine."""

    status: int | None
    """The command's exit code; None when the machine ended before the command."""
    in_time: bool
    log: str


@dataclass(frozen=True)
class Machine:
    """What a machine is like, and what it runs."""

    command: list[str]
    disks: tuple[int | Path, ...] = ()
    """Sizes of empty ones, or files, which keep what is written to them. $LAB_DISKS has their devices."""
    shared: tuple[Path, ...] = ()
    """Folders of this machine that it may write to."""
    environment: dict[str, str] = field(default_factory=dict)
    udev: bool = True
    """Whether udev runs. Without it LVM makes the nodes of its devices itself."""
    memory: int = 2 << 30
    timeout_s: float = 600

    def boot(self, engine: Engine) -> Result:
        """Boot and run the command with its output on our standard output.

        Raises:
            lab_packages.Unavailable: something to boot it with cannot be had.
        """
        _stay_on_one_processor()
        with tempfile.TemporaryDirectory(prefix="katacsi-lab-", dir=RUNS) as name:
            folder = Path(name)
            # The machine writes as us: into a folder of nobody else.
            (folder / "settings").write_text(self._settings(engine), "utf-8")
            shutil.copy(engine.init, folder / "init")
            shutil.copy(INSIDE, folder / "inside")
            in_time = engine.boot(self, folder, self._disk_files(folder))
            status = None
            with contextlib.suppress(OSError, ValueError):
                status = int((folder / "status").read_text("utf-8"))
            return Result(status, in_time, (folder / "log").read_text("utf-8", "replace"))

    def _disk_files(self, folder: Path) -> list[Path]:
        """Return the files behind the disks; those of empty ones are made in the folder."""
        files = []
        for number, disk in enumerate(self.disks):
            if isinstance(disk, Path):
                files.append(disk.resolve())
            else:
                files.append(folder / f"disk{number}")
                with files[-1].open("wb") as empty:
                    empty.truncate(disk)
        return files

    def _settings(self, engine: Engine) -> str:
        """Return the file that the scripts read: assignments of bash."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "KATACSI_CACHE": str(lab_packages.CACHE.resolve()),
            "LAB_DISKS": " ".join(engine.nodes(len(self.disks))),
            **({} if self.udev else {"DM_DISABLE_UDEV": "1"}),
            **self.environment,
        }
        return (
            f"LAB_TREE={shlex.quote(str(lab_packages.guest_tree()))}\n"
            f"LAB_MODULES={shlex.quote(str(engine.modules()))}\n"
            f"LAB_OUTPUT={engine.output}\n"
            f"LAB_FOLDER={shlex.quote(str(Path.cwd()))}\n"
            f"LAB_TIMEOUT={self.timeout_s}\n"
            f"LAB_UDEV={'yes' if self.udev else ''}\n"
            f"LAB_SHARED={_array(str(path.resolve()) for path in self.shared)}\n"
            f"LAB_ENVIRONMENT={_array(f'{name}={value}' for name, value in environment.items())}\n"
            f"LAB_COMMAND={_array(self.command)}\n"
        )


def _stay_on_one_processor() -> None:
    """Keep this process, and the machine that it starts, on one processor, and other machines off it.

    A machine has one processor only. With user-mode Linux each of its system calls goes back and forth
    between two processes of this machine, which across processors takes three to four times as long.
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


def _array(values: Iterable[str]) -> str:
    """Return an array of bash."""
    return f"({' '.join(map(shlex.quote, values))})"
