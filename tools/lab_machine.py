"""A machine of the lab: what it is like, what it runs, and what came of it.

An engine boots it (tools/lab_uml.py). Both meet in a folder of this machine: `settings` and `init` go in;
`status`, the command's exit code, and `log`, the kernel's words, come out.

Standard library only.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import lab_packages
import lab_uml

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
            in_time = lab_uml.boot(tree, folder, self._disk_files(folder), self.memory, self.timeout_s)
            with contextlib.suppress(OSError, ValueError):
                return int((folder / "status").read_text("utf-8"))
            log = (folder / "log").read_text("utf-8", "replace")
        fault = "failed" if in_time else f"was ended after {self.timeout_s:.0f} s"
        print(f"lab: the machine {fault}; the end of its log:\n{log[-4000:].rstrip()}", file=sys.stderr)
        return MACHINE_FAILED if in_time else TIME_WAS_UP

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


def _array(values: Iterable[str]) -> str:
    """Return an array of bash."""
    return f"({' '.join(map(shlex.quote, values))})"
