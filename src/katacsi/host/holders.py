# ruff: noqa: PTH115, PTH208 -- in a walk over all descriptors of a host a Path for each would cost more than the walk
"""Who has a block device open: processes, by any node with its number, and devices stacked on it.

Source: proc(5), and <sysfs>/dev/block/*/holders.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from katacsi.host import _linux, block, loopdevices, processes

#: How /proc shows descriptors that are no files; most descriptors of a host are such.
_NO_FILES = ("socket:", "pipe:", "anon_inode:")

#: How the name that Kata gives a QEMU begins: `-name sandbox-<id>,debug-threads=on`.
_SANDBOX = b"sandbox-"

#: How long somebody who only looks in may have a device, 0.5 s in all: udev probes each new one, and whoever
#: asks the kernel for a free loop device opens it, also if another was faster.
_PASSING_PAUSES_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a device: a process, or (pid 0) a device of the kernel stacked on it, such as "dm-3".

    Attributes:
        sandbox: the id of the Kata sandbox whose virtual machine the process is; empty where it names none.
    """

    pid: int
    comm: str
    sandbox: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return self.comm
        of = f", the virtual machine of sandbox {self.sandbox}" if self.sandbox else ""
        return f"{self.comm} (process {self.pid}{of})"


def lasting(device: Path) -> list[Holder]:
    """Do as `now`, and wait half a second for all to leave: who stays is no passer-by.

    Raises:
        HostError: as `now`.
    """
    for pause_s in _PASSING_PAUSES_S:
        if not now(device):
            return []
        time.sleep(pause_s)
    return now(device)


def now(device: Path, proc: Path | None = None, *, own_pids_excluded: bool = True) -> list[Holder]:
    """Say who has a device open: processes, by any node with its number, and devices stacked on it.

    `proc` is the procfs to look in; None: where the node's processes are seen. A mount is no open
    descriptor; see `mount.of_device`.

    Raises:
        HostError: a process cannot be looked into, so nobody can say (CAP_SYS_PTRACE is needed).
    """
    number = block.device_number(device)
    proc = proc or processes.seen_in()
    try:
        own = os.readlink(proc / "self") if own_pids_excluded else ""
        names = [name for name in os.listdir(proc) if name.isdigit() and name != own]
    except OSError as error:
        raise _linux.failure(f"list the processes in {proc}", error) from error
    return [_described(proc, name) for name in names if _has_open(proc, name, number)] + _stacked(number)


def _has_open(proc: Path, name: str, number: tuple[int, int]) -> bool:
    try:
        # From the open folder each look goes one step and not four; hosts have tens of thousands of these.
        folder = os.open(f"{proc}/{name}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return False  # the process ended
    except OSError as error:
        raise _linux.failure(f"look into process {name} in {proc}", error) from error
    try:
        return any(_is_device(folder, link, number) for link in os.listdir(folder))
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ended meanwhile
    except OSError as error:
        if name == "1" and error.errno == errno.EACCES:
            return False  # init may have rights that we lack; it starts processes and holds no volumes
        raise _linux.failure(f"look into process {name} in {proc}", error) from error
    finally:
        os.close(folder)


def _is_device(folder: int, link: str, number: tuple[int, int]) -> bool:
    try:
        if os.readlink(link, dir_fd=folder).startswith(_NO_FILES):
            return False
    except FileNotFoundError:
        return False  # closed meanwhile
    try:
        return _linux.block_device_at(link, directory=folder) == number
    except OSError:
        return False  # a file of a filesystem that is gone or closed to us is no local device


def _described(proc: Path, name: str) -> Holder:
    comm = _content(proc, name, "comm").decode(errors="replace").rstrip("\n") or "?"
    return Holder(int(name), comm, _sandbox(_content(proc, name, "cmdline").split(b"\0")))


def _content(proc: Path, name: str, file: str) -> bytes:
    try:
        return Path(f"{proc}/{name}/{file}").read_bytes()
    except OSError:
        return b""


def _sandbox(words: list[bytes]) -> str:
    """Give the sandbox that a virtual machine's command line names; both runtimes of Kata 4.1 name it so."""
    for option, value in itertools.pairwise(words):
        if option == b"-name" and value.startswith(_SANDBOX):
            return value.removeprefix(_SANDBOX).split(b",", 1)[0].decode(errors="replace")
    return ""


def _stacked(number: tuple[int, int]) -> list[Holder]:
    try:
        names = sorted(os.listdir(f"/sys/dev/block/{number[0]}:{number[1]}/holders"))
    except OSError as error:
        raise _linux.failure(f"list the holders of device {number[0]}:{number[1]}", error) from error
    return [Holder(0, name) for name in names] + [
        Holder(0, other.path.name) for other in loopdevices.devices() if other.backing_device == number
    ]
