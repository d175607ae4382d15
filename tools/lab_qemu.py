"""An emulated machine of QEMU (TCG), an engine of the lab: a distribution's kernel, and no KVM needed.

It is the guest of tools/guest_machine.py, with the root of this machine by virtio-fs. A process computes some
fifteen times slower in it than here; a system call costs less than in user-mode Linux.

Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import guest_packages
import lab_packages
from debian_packages import Unavailable, alone, find
from guest_machine import Died, Guest
from guest_qemu import Share

if TYPE_CHECKING:
    from lab_machine import Machine

INIT = Path(__file__).resolve().parent / "lab_qemu_init.sh"
ROOT_TIMEOUT_S = 60


@dataclass(frozen=True)
class Emulated:
    """The engine."""

    cpu: str = "max"
    """QEMU's name of a processor."""
    name: ClassVar = "qemu"
    output: ClassVar = "/run/lab/output"
    init: ClassVar = INIT

    def nodes(self, disks: int) -> list[str]:
        """Return the devices of so many disks."""
        return [f"/dev/vd{chr(ord('a') + number)}" for number in range(disks)]

    def modules(self) -> Path:
        """Return the folder with the kernel's modules, for modprobe.

        Raises:
            Unavailable: not an amd64 machine, not root, or a package cannot be had.
        """
        if os.geteuid() != 0:
            raise Unavailable("the emulated machine sees this one by virtiofsd, which needs root here")
        modules = guest_packages.prepare(modules=("overlay",)).tree / "usr/lib/modules"
        with alone(guest_packages.PACKAGES.folder / "modules.lock"):
            for kernel in modules.iterdir():
                if not (kernel / "modules.dep").exists():
                    _depmod(modules.parent.parent.parent, kernel.name)
        return modules

    def boot(self, machine: Machine, folder: Path, disks: list[Path]) -> bool:
        """Run a machine until it is off, its command's output on our standard output.

        Return whether that was in time. Whatever comes, no process of it is left afterwards.
        """
        end = time.monotonic() + machine.timeout_s
        shares = {
            # Announced, its mounts would be automounts in the guest, which an overlay does not take.
            "root": Share(Path("/"), cache="always", announced=False),
            "packages": Share(lab_packages.guest_tree(), cache="always"),
            "lab": Share(folder),
            **{f"shared{number}": Share(path.resolve()) for number, path in enumerate(machine.shared)},
        }
        (folder / "shared").write_text("".join(f"{path.resolve()}\n" for path in machine.shared), "utf-8")
        (folder / "output").touch()
        guest = Guest(
            memory=machine.memory,
            cpu=self.cpu,
            modules=("overlay",),
            shares=shares,
            disks=tuple(disks),
        )
        log = ""
        try:
            with guest:
                answer = guest.run("sh /run/shares/lab/init", timeout=ROOT_TIMEOUT_S)
                in_time = answer.code == 0 and _pass_on(folder / "output", guest, end)
                log = answer.output + guest.last_words()
        except Died as error:
            in_time, log = True, str(error)
        except TimeoutError as error:
            in_time, log = False, str(error)
        (folder / "log").write_text(log, "utf-8")
        return in_time


def _pass_on(output: Path, guest: Guest, end: float) -> bool:
    """Copy a growing file to our output until a guest is off; tell whether that was before the end."""
    with output.open("rb") as said:
        while True:
            # Asked before the last look: what the guest wrote until then is there.
            off = guest.is_off()
            if piece := said.read(1 << 16):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            elif off:
                return True
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(0.05)


def _depmod(tree: Path, kernel: str) -> None:
    """Write the tables that modprobe reads.

    Raises:
        Unavailable: depmod fails.
    """
    tools = lab_packages.guest_tree()
    answer = subprocess.run(
        ["depmod", "-b", tree, kernel],
        executable=find(tools, "/usr/bin/kmod", "/bin/kmod"),
        env={"LD_LIBRARY_PATH": ":".join(map(str, tools.glob("usr/lib/*-linux-gnu")))},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Unavailable(f"depmod fails for the kernel {kernel}: {answer.stderr.strip()}")
