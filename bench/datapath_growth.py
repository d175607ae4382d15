"""Growing a volume while its workload writes: what the workload notices of it."""

from __future__ import annotations

import asyncio
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datapath_fio as fio
from datapath_paths import IN_GUEST, SERIAL, forget_caches
from scratch import Failure

if TYPE_CHECKING:
    from datapath_paths import Bed

JOB = fio.BY_NAME["randwrite-4k-qd32"]
STEP = 256 << 20


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


def measure(bed: Bed, seconds: int, *, each: bool) -> Growth:
    """Write at depth 32 for so many seconds; grow the device half-way, and the filesystem a little later."""
    with bed.in_guest() as node:
        forget_caches()
        line = fio.command(
            "fio", f"{IN_GUEST}/data", JOB, seconds, "/tmp/fio", each=each, rate=bed.cap.fio_rate
        )
        # In the background: the guest has to hear of its new size meanwhile.
        script = f"({line}) > /tmp/said 2>&1; echo $? > /tmp/code"
        bed.must(f"rm -f /tmp/code; setsid sh -c {shlex.quote(script)} > /dev/null 2>&1 &")
        started = time.monotonic() + 1  # of the ramp
        time.sleep(1 + seconds * 0.5)
        asyncio.run(bed.volume.grow(bed.volume.size + STEP))
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
