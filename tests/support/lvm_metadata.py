"""Real LVM without device-mapper: its metadata on loop devices, its commands, its exit codes; no device.

`--driverloaded n` keeps LVM away from the kernel, so these pools work on any machine with loop devices.
Whether an LV is active is only remembered here, and nobody writes to it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from katacsi.backends.api import PoolContext
from katacsi.backends.lvm import LvmBackend, LvmSettings
from katacsi.backends.lvm.contents import LvmContents
from katacsi.backends.lvm.devices import LvmDevices
from katacsi.backends.lvm.group import VolumeGroup
from katacsi.backends.tools import poollock
from katacsi.host import devicemapper
from katacsi.host.devicemapper import Mapped, Target
from support import blockdevices

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parent.parent.parent
VG = "vgtest"


def program(folder: Path) -> Path:
    """Make the program that stands for LVM in a test; skip where there is no LVM to be had."""
    found = shutil.which("lvm", path="/usr/sbin:/sbin:/usr/local/sbin")
    libraries = ""
    if found is None:
        # The lab's, which is unpacked in the cache and not installed.
        answer = subprocess.run(
            [sys.executable, TREE / "tools" / "lab.py", "prepare"],
            capture_output=True,
            text=True,
            check=False,
        )
        tree = Path(answer.stdout.strip() or "/nonexistent")
        programs = [path for path in (tree / "sbin/lvm", tree / "usr/sbin/lvm") if path.exists()]
        if not programs:
            pytest.skip(f"lvm not found: apt-get install lvm2, or see to the lab ({answer.stderr.strip()})")
        found = str(programs[0])
        libraries = ":".join(str(path) for path in tree.glob("**/*-linux-gnu"))
    script = folder / "lvm"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {folder}/commands\n'
        f'LD_LIBRARY_PATH={libraries} exec {found} "$@" --driverloaded n\n'
    )
    script.chmod(0o755)
    return script


class Metadata:
    """A volume group that exists on disk and not in the kernel."""

    def __init__(self, folder: Path, disks: list[Path], *options: str) -> None:
        self.folder = folder
        self.disks = disks
        self.program = program(folder)
        self.active: set[str] = set()
        self.backends: list[LvmBackend] = []
        self.lvm("pvcreate", "--yes", *options, *disks)
        self.lvm("vgcreate", "--yes", VG, *disks)
        self.forget()

    def settings(self, **more: object) -> LvmSettings:
        """Give the settings of a pool on it."""
        given: dict[str, object] = {
            "volume_group": VG,
            "program": str(self.program),
            "devices": [str(disk) for disk in self.disks],
            "lock_directory": self.folder / "lock",
            **more,
        }
        return LvmSettings.model_validate(given)

    def lvm(self, *words: str | Path) -> str:
        """Do something by hand, as an operator does."""
        answer = self.answer(*words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def answer(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Do something by hand that may fail."""
        accepted = ", ".join(f'"a|^{disk}$|"' for disk in self.disks)
        configuration = (
            f'devices {{ global_filter = [ {accepted}, "r|.*|" ] use_devicesfile = 0 hints = "none" }} '
            f'global {{ locking_dir = "{self.folder}/lock" }} activation {{ udev_sync = 0 monitoring = 0 }} '
            "backup { backup = 0 archive = 0 }"
        )
        return subprocess.run(
            [self.program, *words, "--config", configuration],
            env={"LVM_SYSTEM_DIR": "", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def takes_tag(self, tag: str) -> bool:
        """Write a tag on the LV `others`; False: there is no room for it in the metadata."""
        answer = self.answer("lvchange", "--addtag", tag, f"{VG}/others")
        assert answer.returncode == 0 or "exceeds maximum metadata size" in answer.stderr, answer.stderr
        return answer.returncode == 0

    def lvs(self) -> dict[str, set[str]]:
        """Give the names and tags of all LVs, as they are on disk."""
        answer = self.lvm("lvs", "--reportformat", "json", "--options", "lv_name,lv_tags", VG)
        rows = json.loads(answer)["report"][0]["lv"]
        return {row["lv_name"]: set(row["lv_tags"].split(",")) - {""} for row in rows}

    def extents(self, lv_name: str) -> set[tuple[str, int]]:
        """Give where an LV lies, its legs' metadata left out: disk and number of each physical extent."""
        fields = ("--noheadings", "--options", "lv_name,seg_pe_ranges", "--separator", "|")
        found = set()
        for line in self.lvm("lvs", "--all", *fields, VG).splitlines():
            name, _, ranges = line.strip().partition("|")
            name = name.strip("[]")
            if name == lv_name or name.startswith(f"{lv_name}_rimage_"):
                for disk, first, last in re.findall(r"(/[^ :]+):(\d+)-(\d+)", ranges):
                    found |= {(disk, number) for number in range(int(first), int(last) + 1)}
        return found

    def seqno(self) -> int:
        """Give the number of metadata commits."""
        return int(self.lvm("vgs", "--noheadings", "--options", "vg_seqno", VG))

    def forget(self) -> None:
        """Forget which commands were run."""
        (self.folder / "commands").write_text("")

    def commands(self) -> list[str]:
        """Say which commands were run, by their first word."""
        return [line.split()[0] for line in (self.folder / "commands").read_text().splitlines()]

    async def start(self, *, pool: str = "pool", read_only: bool = False, **settings: object) -> LvmBackend:
        """Start a pool; what was started before is left as a crash leaves it, but for its lock."""
        for backend in self.backends:
            backend._group.close()
        context = PoolContext(pool, "test.katacsi.io", "node-1", read_only=read_only)
        backend = LvmBackend(self.settings(**settings), context)
        await backend.start()
        self.backends.append(backend)
        return backend


@contextlib.contextmanager
def volume_group(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, *options: str, disks: int = 2
) -> Iterator[Metadata]:
    """Make a volume group on loop devices, and the kernel's part out of a set of names."""
    with contextlib.ExitStack() as stack:
        devices = []
        for number in range(disks):
            file = blockdevices.sparse_file(scratch / f"disk{number}", 256 << 20)
            devices.append(stack.enter_context(blockdevices.loop_device(file)))
        metadata = Metadata(scratch, devices, *options)
        _pretend(metadata.active, monkeypatch)
        try:
            yield metadata
        finally:
            for backend in metadata.backends:
                backend._group.close()


def _pretend(active: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a set of names in the place of device-mapper."""
    run, activate = VolumeGroup.run, VolumeGroup.activate

    async def mapped(self, lv, layer=""):
        target = Target("linear", lv.size_bytes, "")
        return Mapped(f"{VG}-{lv.name}", (253, 0), 0, False, (target,)) if lv.name in active else None

    async def pretend_run(self, *words):
        await run(self, *words)
        if words[0] == "lvcreate" and words[words.index("--activate") + 1] == "y":
            active.add(words[words.index("--name") + 1])
        if words[0] == "lvremove":
            active.discard(words[-1].split("/")[1])

    async def pretend_activate(self, lv_name, *, active: bool):
        await activate(self, lv_name, active=active)
        (names.add if active else names.discard)(lv_name)

    async def zero(self, device, start=0):
        return None

    names = active
    monkeypatch.setattr(LvmDevices, "mapped", mapped)
    monkeypatch.setattr(VolumeGroup, "run", pretend_run)
    monkeypatch.setattr(VolumeGroup, "activate", pretend_activate)
    monkeypatch.setattr(LvmContents, "zero", zero)
    monkeypatch.setattr(devicemapper, "node", lambda mapped, timeout_s: Path("/dev/null"))
    monkeypatch.setattr(poollock, "TIMEOUT_S", 0.2)
