"""The ways from a workload to one and the same filesystem on one and the same device."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datapath_fio as fio
from client import TREE
from scratch import Failure

sys.path.insert(0, str(TREE / "tools"))
import debian_packages
import guest_packages
from guest import Guest, Share

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datapath_device import DeviceCap, FioCap
    from datapath_volume import Volume

HOST, DIRECT, VFS_DIO, VFS = "host", "direct", "vfs-dio", "vfs"
PATHS = {
    HOST: "the host's own mount of the device",
    DIRECT: "in the guest, the device plugged in (virtio-blk)",
    VFS_DIO: "in the guest, the host's mount by virtio-fs, O_DIRECT kept (allow_direct_io)",
    VFS: "in the guest, the host's mount by virtio-fs, as it is by default: the host's page cache answers",
}
SERIAL = "volume"
#: Where the guest mounts the device.
IN_GUEST = "/mnt"
_FILE = "data"


@dataclass
class Bed:
    """A volume, a guest, and the one mount that there is at a time."""

    volume: Volume
    guest: Guest
    shared: Path
    parts: guest_packages.Parts
    cap: DeviceCap | FioCap
    size: int

    @contextmanager
    def mounted(self, path: str) -> Iterator[None]:
        """Mount the filesystem where a path needs it; it is clean, and nobody's, before and afterwards."""
        with self.in_guest() if path == DIRECT else self._on_host():
            yield

    def run(self, path: str, job: fio.Job, seconds: int, *, each: bool) -> fio.Sample:
        """Run a job on a path whose mount is there; `each` as of fio.command."""
        forget_caches()
        arguments = {"seconds": seconds, "each": each, "rate": self.cap.fio_rate}
        if path == HOST:
            program = str(debian_packages.find(self.parts.tree, guest_packages.FIO))
            line = fio.command(
                program, str(self._at / _FILE), job, log=str(self.shared.parent / "fio"), **arguments
            )
            answer = subprocess.run(
                ["sh", "-c", line], env=self.parts.environment, capture_output=True, text=True, check=False
            )
            code, said = answer.returncode, answer.stdout + answer.stderr
        else:
            file = f"{IN_GUEST if path == DIRECT else f'/run/shares/{path}/{self._at.name}'}/{_FILE}"
            in_guest = self.guest.run(
                fio.command("fio", file, job, log="/tmp/fio", **arguments), timeout=seconds + 120
            )
            code, said = in_guest.code, in_guest.output
        if code:
            raise Failure(f"fio failed ({path}, {job.name}, exit code {code}):\n{said[-2000:]}")
        return fio.parse(said, seconds, each=each)

    def lay_out(self) -> None:
        """Write the file once, so that no run has to find free blocks, in the guest or in the pool."""
        with self.in_guest():
            self.must(
                f"fio --name=fill --filename={IN_GUEST}/{_FILE} --rw=write --bs=1M --size={self.size}"
                " --ioengine=libaio --iodepth=4 --direct=1 --fallocate=none --end_fsync=1 >/dev/null"
            )

    def must(self, command: str, timeout: float = 120) -> str:
        """Run a command in the guest that has to succeed."""
        answer = self.guest.run(command, timeout=timeout)
        if answer.code:
            raise Failure(f"in the guest, exit code {answer.code}: {command}\n{answer.output[-2000:]}")
        return answer.output

    @property
    def _at(self) -> Path:
        return self.shared / "volume"

    @contextmanager
    def in_guest(self) -> Iterator[str]:
        """Plug the device and mount it in the guest; give its node there."""
        node = self.guest.plug(self.volume.device, SERIAL)
        try:
            self.must(f"mount -t ext4 {node} {IN_GUEST}")
            yield node
            self.must(f"umount {IN_GUEST}")
        finally:
            self.guest.unplug(SERIAL)

    @contextmanager
    def _on_host(self) -> Iterator[None]:
        # virtiofsd sees the mount come and go: its sandbox is a chroot, and it shares the folder above.
        self._at.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "ext4", self.volume.device, self._at], check=True)
        try:
            yield
        finally:
            self._unmount()

    def _unmount(self) -> None:
        """Unmount on the host once virtiofsd has let go, which it does when the guest forgets what it saw."""
        for _ in range(100):
            self.guest.run(
                f"umount /run/shares/*/{self._at.name} 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches"
            )
            answer = subprocess.run(["umount", self._at], capture_output=True, text=True, check=False)
            if not answer.returncode:
                return
            time.sleep(0.1)
        raise Failure(f"virtiofsd does not let go of the volume: {answer.stderr.strip()}")


@contextmanager
def bed(
    volume: Volume, home: Path, cap: DeviceCap | FioCap, *, size: int, cpus: int, iothread: bool
) -> Iterator[Bed]:
    """Start the guest, and give the place to measure in."""
    shared = home / "shared"
    shared.mkdir()
    shares = {VFS_DIO: Share(shared, options=("allow_direct_io",)), VFS: Share(shared)}
    with ExitStack() as stack:
        guest = stack.enter_context(
            Guest(memory=1 << 30, cpus=cpus, shares=shares, iothread=iothread, fio=True)
        )
        made = Bed(volume, guest, shared, guest_packages.prepare(fio=True), cap, size)
        made.lay_out()
        yield made


def forget_caches() -> None:
    """Let nothing of an earlier run be on its way to the disk, or in memory."""
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as file:  # noqa: PTH123 -- a knob, not a file
        file.write("1")
