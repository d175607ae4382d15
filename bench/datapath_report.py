"""What was measured, as tables and as JSON: ratios first, then the figures they come from."""

from __future__ import annotations

import os
import platform
from statistics import mean
from typing import TYPE_CHECKING

from aims import Aim, aims_table
from datapath_fio import JOBS
from datapath_paths import DIRECT, HOST, PATHS, VFS_DIO
from tables import Table, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datapath import Results
    from datapath_fio import Job, Sample

UNCAPPED, CAPPED = "uncapped", "capped"
#: A machine that does nothing else has less.
_IDLE_LOAD = 0.7


def aims(results: Results) -> list[Aim]:
    """Compare with what was promised; each figure is the worst of all jobs and rounds."""
    found = []
    if worst := min(_ratios(results, CAPPED, HOST), default=None):
        found.append(Aim("capped, direct / host", ">= 0.98", f"{worst:.3f}", round(worst, 3) >= 0.98))
        steady = max(sample.variation for sample in _all(results, CAPPED, DIRECT))
        found.append(
            Aim(
                "capped, direct: variation of the seconds",
                "<= 0.02",
                f"{steady:.3f}",
                round(steady, 3) <= 0.02,
            )
        )
    if worst := min(_ratios(results, UNCAPPED, VFS_DIO, depth=32), default=None):
        found.append(
            Aim("depth 32, direct / virtio-fs with O_DIRECT", ">= 1.4", f"{worst:.2f}", worst >= 1.4)
        )
        steadier = [
            ours.variation < theirs.variation
            for job in JOBS
            if job.depth == 32
            for ours, theirs in _pairs(results, UNCAPPED, job, VFS_DIO)
        ]
        name = "depth 32, direct varies less than virtio-fs with O_DIRECT"
        found.append(Aim(name, "always", f"{sum(steadier)} of {len(steadier)} runs", all(steadier)))
    zero = sum(sample.at_zero for sample in all_direct(results))
    found.append(Aim("seconds without I/O, direct, growth included", "0", str(zero), zero == 0))
    return found


def all_direct(results: Results) -> Iterator[Sample]:
    """Give every run on the direct path."""
    for part in (UNCAPPED, CAPPED):
        yield from _all(results, part, DIRECT)
        yield from (growth.sample for growth in results.growths.get(part, ()))


def machine(results: Results) -> str:
    """Say in a line what it was measured on, and how far that can be believed."""
    wanted = results.wanted
    rounds = "1 round" if wanted.rounds == 1 else f"{wanted.rounds} rounds"
    facts = [
        f"{rounds} of {wanted.runtime} s a run",
        f"{os.cpu_count()} CPUs",
        f"Linux {platform.release().split('-')[0]}",
    ]
    facts.append(f"a guest of {wanted.cpus} emulated CPUs{', with an iothread' if wanted.iothread else ''}")
    if CAPPED in wanted.parts:
        facts.append(f"{wanted.iops_cap:,} IOPS held {results.how_capped}")
    busy = f"load average {results.load:.1f} before it"
    if results.load > _IDLE_LOAD:
        busy += ": other work ran on this machine, so do not keep these figures"
    return "; ".join([*facts, busy])


def tables(results: Results) -> Iterator[Table]:
    """Give what was measured as tables, for a terminal or for the page."""
    title = "The direct path against what was promised: the worst of all jobs and rounds"
    yield aims_table(title, aims(results))
    for part, title in (
        (UNCAPPED, "As fast as it goes"),
        (CAPPED, f"On a device of {results.wanted.iops_cap:,} IOPS"),
    ):
        if any(key[0] == part for key in results.samples):
            yield _ratios_table(results, part, title)
            yield _figures_table(results, part, title)
    if results.growths:
        yield _growths_table(results)


def as_json(results: Results) -> dict:
    """Give everything as plain data."""
    wanted = results.wanted
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load_before": results.load,
            "guest_cpus": wanted.cpus,
            "iothread": wanted.iothread,
        },
        "runtime_s": wanted.runtime,
        "iops_cap": wanted.iops_cap,
        "capped_by": results.how_capped,
        "aims": [vars(aim) for aim in aims(results)],
        "runs": [
            {"part": part, "job": job, "path": path, "round": number, **_plain(sample)}
            for (part, job, path), samples in results.samples.items()
            for number, sample in enumerate(samples)
        ],
        "growths": [
            {
                "part": part,
                "round": number,
                "grown_s": growth.grown_s,
                "filled_s": growth.filled_s,
                **_plain(growth.sample),
            }
            for part, growths in results.growths.items()
            for number, growth in enumerate(growths)
        ],
    }


def _plain(sample: Sample) -> dict:
    return {
        "iops": round(sample.iops, 1),
        "mb_s": round(sample.mb_s, 2),
        "p50_us": round(sample.p50_us, 1),
        "p99_us": round(sample.p99_us, 1),
        "variation": round(sample.variation, 4),
        "seconds_at_zero": sample.at_zero,
        "worst_second": round(sample.worst, 3),
        "seconds": sample.seconds,
    }


def _ratios_table(results: Results, part: str, title: str) -> Table:
    baselines = [path for path in PATHS if path != DIRECT and any(_all(results, part, path))]
    found = {
        job: [
            [ours.iops / theirs.iops for ours, theirs in _pairs(results, part, job, path)]
            for path in baselines
        ]
        for job in JOBS
    }
    rows = [
        (job.title, *(spread(ratios) if ratios else "" for ratios in of_paths))
        for job, of_paths in found.items()
        if any(of_paths)
    ]
    return Table(f"{title}: direct has how many times the rate of", ("job", *baselines), rows)


def _figures_table(results: Results, part: str, title: str) -> Table:
    rows = [
        (
            *(job.title, path, _speed(job, samples)),
            f"{mean(sample.p99_us for sample in samples) / 1000:.2f}",
            f"{max(sample.variation for sample in samples):.3f}",
            str(sum(sample.at_zero for sample in samples)),
        )
        for job in JOBS
        for path in PATHS
        if (samples := results.of(part, job.name, path))
    ]
    heads = ("job", "path", "rate", "p99 ms", "variation", "seconds at zero")
    return Table(f"{title}: the figures", heads, rows, text=2, section_by=0)


def _growths_table(results: Results) -> Table:
    rows = [
        (
            *(part, f"{growth.sample.iops:,.0f}", f"{growth.sample.worst:.2f}"),
            *(f"{growth.sample.variation:.3f}", str(growth.sample.at_zero)),
        )
        for part, growths in results.growths.items()
        for growth in growths
    ]
    heads = ("device", "IOPS", "worst second / mean", "variation", "seconds at zero")
    return Table("The volume grows while the guest writes at depth 32", heads, rows)


def _speed(job: Job, samples: list[Sample]) -> str:
    """Give what a job is counted in, with its unit: the mean of the rounds."""
    if job.small:
        return f"{mean(sample.iops for sample in samples):,.0f} IOPS"
    return f"{mean(sample.mb_s for sample in samples):,.0f} MB/s"


def _pairs(results: Results, part: str, job: Job, baseline: str) -> list[tuple[Sample, Sample]]:
    ours, theirs = results.of(part, job.name, DIRECT), results.of(part, job.name, baseline)
    return list(zip(ours, theirs, strict=True)) if ours and theirs else []


def _ratios(results: Results, part: str, baseline: str, *, depth: int = 0) -> Iterator[float]:
    for job in JOBS:
        if job.small and depth in (0, job.depth):
            yield from (ours.iops / theirs.iops for ours, theirs in _pairs(results, part, job, baseline))


def _all(results: Results, part: str, path: str) -> Iterator[Sample]:
    for job in JOBS:
        yield from results.of(part, job.name, path)
