"""fio: which jobs are run, its command line, and what is read out of its answer."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from statistics import mean, pstdev

#: Between fio's JSON and its log of IOPS, in what a run prints.
_LOG = "=== log of IOPS ==="
#: A cap of the kernel lets a tenth of a second's operations through at once, and fio's time begins with one
#: of those bursts. Seconds that began there too would now and then hold one burst more, or one less.
_HALF_A_BURST_MS = 50


@dataclass(frozen=True)
class Job:
    """What fio does; `kind` is its own word for the pattern."""

    name: str
    title: str
    kind: str
    block: str
    depth: int

    @property
    def small(self) -> bool:
        """Whether it is counted in operations, not in bytes."""
        return self.block == "4k"


JOBS = (
    Job("randread-4k-qd1", "4k random read, depth 1", "randread", "4k", 1),
    Job("randwrite-4k-qd1", "4k random write, depth 1", "randwrite", "4k", 1),
    Job("randread-4k-qd32", "4k random read, depth 32", "randread", "4k", 32),
    Job("randwrite-4k-qd32", "4k random write, depth 32", "randwrite", "4k", 32),
    Job("read-1m-qd4", "1M sequential read, depth 4", "read", "1M", 4),
    Job("write-1m-qd4", "1M sequential write, depth 4", "write", "1M", 4),
)
BY_NAME = {job.name: job for job in JOBS}


@dataclass(frozen=True)
class Sample:
    """What one run of fio gave.

    Attributes:
        iops: operations per second over the whole run.
        mb_s: 10^6 bytes per second.
        p99_us: 99 of 100 operations took no longer, in microseconds.
        seconds: the IOPS of each second; a second without any operation is a 0.
    """

    iops: float
    mb_s: float
    p50_us: float
    p99_us: float
    seconds: tuple[float, ...]

    @property
    def variation(self) -> float:
        """The coefficient of variation of the seconds: 0 is perfectly steady."""
        return pstdev(self.seconds) / mean(self.seconds) if any(self.seconds) else float("inf")

    @property
    def at_zero(self) -> int:
        """How many seconds had no operation at all."""
        return self.seconds.count(0)

    @property
    def worst(self) -> float:
        """The worst second, as a share of the mean one."""
        return min(self.seconds) / mean(self.seconds) if any(self.seconds) else 0


class Unreadable(Exception):
    """fio did not answer as it should; the message holds what it said."""


def command(
    fio: str, file: str, job: Job, seconds: int, log: str, *, each: bool = False, rate: int = 0
) -> str:
    """Give the shell's command line that runs a job on a file that exists.

    Args:
        log: the beginning of the names of fio's own files, which are removed.
        each: log each operation instead of the rate of each second: exact, where there are few of them.
        rate: let fio itself hold so many IOPS, for want of a device that does.
    """
    argv = [
        *(fio, f"--name={job.name}", f"--filename={file}", f"--rw={job.kind}", f"--bs={job.block}"),
        *("--ioengine=libaio", f"--iodepth={job.depth}", "--direct=1", "--fallocate=none"),
        *("--randrepeat=0", "--norandommap", "--time_based", "--ramp_time=1"),
        *(f"--runtime={seconds * 1000 + 2 * _HALF_A_BURST_MS}ms", f"--write_iops_log={log}"),
        *([] if each else ["--log_avg_msec=1000"]),
        *("--output-format=json", f"--output={log}.json"),
        *([f"--rate_iops={rate}"] if rate else []),
    ]
    return (
        f"{shlex.join(argv)} && cat {log}.json && echo '{_LOG}' && cat {log}_iops.*.log;"
        f" code=$?; rm -f {log}.json {log}_*.log; exit $code"
    )


def parse(said: str, seconds: int, *, each: bool = False) -> Sample:
    """Read what the command printed, when it was given the same `seconds` and `each`.

    Raises:
        Unreadable: it is not what fio prints after a good run.
    """
    answer, mark, log = said.partition(_LOG)
    try:
        job = json.loads(answer[answer.index("{") :])["jobs"][0]
        side = job["read"] if job["read"]["total_ios"] else job["write"]
        percentiles = side["clat_ns"]["percentile"]
        entries = [tuple(map(int, line.split(",")[:2])) for line in log.strip().splitlines()]
    except (ValueError, LookupError) as error:
        raise Unreadable(f"fio's answer cannot be read ({error!r}):\n{said[-2000:]}") from error
    if not mark or not entries:
        raise Unreadable(f"fio kept no log of IOPS:\n{said[-2000:]}")
    of_seconds = _counted(entries, seconds) if each else _filled(sorted(entries), seconds)
    return Sample(
        # fio's own figure also has what is left of a burst at the end.
        iops=mean(of_seconds) if each else side["iops"],
        mb_s=side["bw_bytes"] / 1e6,
        p50_us=percentiles["50.000000"] / 1000,
        p99_us=percentiles["99.000000"] / 1000,
        seconds=of_seconds,
    )


def _counted(entries: list[tuple[int, int]], seconds: int) -> tuple[float, ...]:
    """Give the operations of each second, of a log with a line for each operation."""
    found = [0] * seconds
    for at_ms, _ in entries:
        second = (at_ms - _HALF_A_BURST_MS) // 1000
        if 0 <= second < seconds:
            found[second] += 1
    return tuple(found)


def _filled(entries: list[tuple[int, int]], seconds: int) -> tuple[float, ...]:
    """Give the IOPS of each second: fio has no line for a second without I/O, only a gap."""
    found: list[float] = []
    before = 0
    for at_ms, iops in entries:
        found += [0] * (round((at_ms - before) / 1000) - 1)
        found.append(iops)
        before = at_ms
    # The last window may end with the run before it is logged: that one is no gap.
    found += [0] * (round(seconds - before / 1000) - 1)
    return tuple(found)
