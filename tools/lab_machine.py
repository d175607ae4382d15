"""A machine of the lab: what it is like, what it runs, and what came of it.

An engine boots it (tools/lab_uml.py). Both meet in a folder of this machine: `settings` and `init` go in;
`status`, the command's exit code, and `log`, the kernel's words, come out.

Standard library only.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import lab_packages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab_uml import UserModeLinux

TOOLS = Path(__file__).resolve().parent
#: On a disk: the files behind the machine's disks may become large, and /tmp may be memory.
RUNS = Path("/var/tmp")


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
    """The disks /dev/ubda, /dev/ubdb …: sizes of empty ones, or files, which keep what is written to them."""
    shared: tuple[Path, ...] = ()
    """Folders of this machine that it may write to."""
    environment: dict[str, str] = field(default_factory=dict)
    udev: bool = True
    """Whether udev runs. Without it LVM makes the nodes of its devices itself."""
    memory: int = 2 << 30
    timeout_s: float = 600

    def boot(self, engine: UserModeLinux) -> Result:
        """Boot and run the command with its output on our standard output.

        Raises:
            lab_packages.Unavailable: there is no kernel to boot.
        """
        tree = lab_packages.guest_tree()
        with tempfile.TemporaryDirectory(prefix="katacsi-lab-", dir=RUNS) as name:
            folder = Path(name)
            # hostfs writes as us: into a folder of nobody else.
            (folder / "settings").write_text(self._settings(tree), "utf-8")
            shutil.copy(TOOLS / "lab_init.sh", folder / "init")
            in_time = engine.boot(tree, folder, self._disk_files(folder), self.memory, self.timeout_s)
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
