# ruff: noqa: PTH115, PTH208 -- in a walk over all descriptors of a host a Path for each would cost more than the walk
"""Who has a block device open: processes, by any node with its number, and devices stacked on it.

Source: proc(5), and <sysfs>/dev/block/*/holders.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from katacsi.host import _linux, block, loopdevices

#: How /proc shows descriptors that are no files; most descriptors of a host are such.
_NO_FILES = ("socket:", "pipe:", "anon_inode:")

#: How long somebody who only looks in may have a device, 0.5 s in all: udev probes each new one, and whoever
#: asks the kernel for a free loop device opens it, also if another was faster.
_PASSING_PAUSES_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a device: a process, or (pid 0) a device of the kernel stacked on it, such as "dm-3"."""

    pid: int
    comm: str

    def __str__(self) -> str:
        return f"{self.comm} (process {self.pid})" if self.pid else self.comm


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


def now(device: Path, proc: Path = Path("/proc"), *, own_pids_excluded: bool = True) -> list[Holder]:
    """Say who has a device open: processes, by any node with its number, and devices stacked on it.

    `proc` may be the host's procfs seen from a container. A mount is no open descriptor; see
    `mount.of_device`.

    Raises:
        HostError: a process cannot be looked into, so nobody can say (CAP_SYS_PTRACE is needed).
    """
    number = block.device_number(device)
    try:
        own = os.readlink(proc / "self") if own_pids_excluded else ""
        names = [name for name in os.listdir(proc) if name.isdigit() and name != own]
    except OSError as error:
        raise _linux.failure(f"list the processes in {proc}", error) from error
    processes = [Holder(int(name), _comm(proc, name)) for name in names if _has_open(proc, name, number)]
    return processes + _stacked(number)


def _has_open(proc: Path, name: str, number: tuple[int, int]) -> bool:
    folder = f"{proc}/{name}/fd"
    try:
        descriptors = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return False  # the process ended
    except OSError as error:
        raise _linux.failure(f"look into process {name} in {proc}", error) from error
    for descriptor in descriptors:
        link = f"{folder}/{descriptor}"
        try:
            if os.readlink(link).startswith(_NO_FILES):
                continue
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
        except OSError as error:
            if name == "1" and error.errno == errno.EACCES:
                return False  # init may have rights that we lack; it starts processes and holds no volumes
            raise _linux.failure(f"look into process {name} in {proc}", error) from error
        try:
            if _linux.block_device_at(link) == number:
                return True
        except OSError:
            continue  # a file of a filesystem that is gone or closed to us is no local device
    return False


def _comm(proc: Path, name: str) -> str:
    try:
        return Path(f"{proc}/{name}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return "?"


def _stacked(number: tuple[int, int]) -> list[Holder]:
    try:
        names = sorted(os.listdir(f"/sys/dev/block/{number[0]}:{number[1]}/holders"))
    except OSError as error:
        raise _linux.failure(f"list the holders of device {number[0]}:{number[1]}", error) from error
    return [Holder(0, name) for name in names] + [
        Holder(0, other.path.name) for other in loopdevices.devices() if other.backing_device == number
    ]
