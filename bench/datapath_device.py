"""What happens to the device while a path is measured: it is held to a rate, or it grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import datapath_fio as fio
from datapath_paths import IN_GUEST, SERIAL, forget_caches
from scratch import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datapath_paths import Bed

_GROWN_JOB = fio.BY_NAME["randwrite-4k-qd32"]
_STEP = 256 << 20
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


@dataclass(frozen=True)
class Growth:
    """A run with a growth in it.

    Attributes:
        grown_s: when the device and its disk in the guest had grown, in seconds of the run.
        filled_s: when the filesystem in the guest had.
    """

    sample: fio.Sample
    grown_s: float
    filled_s: float


def measure_growth(bed: Bed, seconds: int, *, each: bool) -> Growth:
    """Write at depth 32 for so many seconds; grow the device half-way, and the filesystem a little later."""
    with bed.in_guest() as node:
        forget_caches()
        line = fio.command(
            "fio", f"{IN_GUEST}/data", _GROWN_JOB, seconds, "/tmp/fio", each=each, rate=bed.cap.fio_rate
        )
        # In the background: the guest has to hear of its new size meanwhile.
        script = f"({line}) > /tmp/said 2>&1; echo $? > /tmp/code"
        bed.must(f"rm -f /tmp/code; setsid sh -c {shlex.quote(script)} > /dev/null 2>&1 &")
        started = time.monotonic() + 1  # of the ramp
        time.sleep(1 + seconds * 0.5)
        asyncio.run(bed.volume.grow(bed.volume.size + _STEP))
        bed.guest.resize(SERIAL, bed.volume.size)
        grown = time.monotonic() - started
        time.sleep(max(seconds * 0.65 - grown, 0))
        bed.must(f"resize2fs {node} 2>&1")
        filled = time.monotonic() - started
        time.sleep(max(seconds - filled, 0))
        said = bed.must(
            "until [ -s /tmp/code ]; do sleep 0.2; done; cat /tmp/said; exit $(cat /tmp/code)",
        )
        blocks, block = map(int, bed.must(f"stat -f -c '%b %S' {IN_GUEST}").split())
    if blocks * block < 0.9 * bed.volume.size:
        raise Failure(f"the guest's filesystem did not grow: {blocks * block} of {bed.volume.size} bytes")
    return Growth(fio.parse(said, seconds, each=each), grown, filled)


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
