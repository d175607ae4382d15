"""A device that does no more than so many operations a second, as a rented disk does."""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLKIO = Path("/sys/fs/cgroup/blkio")
_LIMITS = ("blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device")


class DeviceCap:
    """The kernel holds the cap, on the device (cgroup v1, blkio): every path meets the same one."""

    how = "by the kernel, on the device (cgroup v1, blkio)"
    fio_rate = 0
    """What fio itself is to hold: nothing."""

    def __init__(self, group: Path) -> None:
        self._group = group

    @contextmanager
    def of(self, device: Path, iops: int) -> Iterator[None]:
        """Cap a device while the block runs."""
        self._write(device, iops)
        try:
            yield
        finally:
            self._write(device, 0)

    def _write(self, device: Path, iops: int) -> None:
        number = device.stat().st_rdev
        for limit in _LIMITS:
            (self._group / limit).write_text(f"{os.major(number)}:{os.minor(number)} {iops}")


class FioCap:
    """fio holds the cap. It shows whether a path keeps up with a rate, not what becomes of a slow device."""

    how = "by fio (rate_iops), as there is no writable blkio controller of cgroup v1 here"

    def __init__(self) -> None:
        self.fio_rate = 0

    @contextmanager
    def of(self, device: Path, iops: int) -> Iterator[None]:
        """Let fio hold the cap while the block runs."""
        self.fio_rate = iops
        try:
            yield
        finally:
            self.fio_rate = 0


@contextmanager
def cap() -> Iterator[DeviceCap | FioCap]:
    """Give what caps; to be entered before the guest starts, whose processes have to be in the group."""
    before, group = _own_group(), _BLKIO / f"katacsi-bench-{os.getpid()}"
    for old in _BLKIO.glob("katacsi-bench-*"):
        with contextlib.suppress(OSError):
            old.rmdir()  # of a run that was killed; a running one's has processes in it
    try:
        group.mkdir()
    except OSError:
        yield FioCap()
        return
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield DeviceCap(group)
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        _remove(group)


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "blkio" in controllers.split(","):
            return _BLKIO / path.lstrip("/")
    return _BLKIO


def _remove(group: Path) -> None:
    """Remove an empty group; the kernel takes a moment to see that its processes have ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)
    group.rmdir()
