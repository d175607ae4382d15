#!/usr/bin/env python3
"""Measure I/O in a guest: the volume directly assigned, against virtio-fs and against the host, as root.

    make bench-datapath                                 # about ten minutes
    make bench-datapath ARGS="--quick"                  # whether it works, not how fast
    make bench-datapath ARGS="--only qd32 --paths direct,vfs-dio --parts uncapped"
    make bench-datapath ARGS="--rounds 3 --write-docs"  # for the figures in docs/datapath.md

One volume, made and published by the real driver; one guest; fio on the same file over each path, the paths
of a job one after the other. docs/datapath.md says what each number means, and what emulation distorts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import datapath_report
import figures
import tables
from datapath_device import Growth, cap, measure_growth
from datapath_fio import JOBS, Sample, Unreadable
from datapath_paths import DIRECT, HOST, PATHS, VFS, VFS_DIO, bed
from datapath_report import CAPPED, UNCAPPED
from datapath_volume import published
from run import require_machine
from scratch import Failure, scratch

from guest import Died, MonitorError, Unavailable

GROWTH = "growth"
_MIB = 1 << 20


@dataclass
class Results:
    """What was measured; a list holds one value for each round.

    Attributes:
        samples: capped or uncapped, job and path to what fio gave.
        growths: capped or uncapped to the runs with a growth in them.
        how_capped: who held the cap.
        load: the machine's load average before the run: above 0.5 something else ran too.
    """

    wanted: argparse.Namespace
    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    growths: dict[str, list[Growth]] = field(default_factory=dict)
    how_capped: str = ""
    load: float = 0

    def add(self, part: str, job: str, path: str, sample: Sample) -> None:
        """Keep what a round gave."""
        self.samples.setdefault((part, job, path), []).append(sample)

    def of(self, part: str, job: str, path: str) -> list[Sample]:
        """Give what the rounds gave; empty when it was not measured."""
        return self.samples.get((part, job, path), [])


def main() -> int:
    """Measure as the command line says."""
    wanted = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that cleans up, as Ctrl-C is
    try:
        require_machine(wanted.folder)
        results = measure(wanted)
    except (Failure, Unavailable, Unreadable, Died, MonitorError, TimeoutError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    if wanted.write_docs:
        machine, found = datapath_report.machine(results), datapath_report.tables(results)
        figures.write("datapath.md", "bench-datapath", "end of figures", machine, found)
    if wanted.output == "json":
        print(json.dumps(datapath_report.as_json(results), indent=1))
    else:
        tables.show(datapath_report.tables(results), datapath_report.machine(results))
    return 0


def measure(wanted: argparse.Namespace) -> Results:
    """Measure everything that is wanted."""
    results = Results(wanted, load=os.getloadavg()[0])
    with scratch(wanted.folder) as home, cap() as capped:
        results.how_capped = capped.how
        # Room for the file, the journal and what else ext4 keeps.
        with published(home, wanted.size + 256 * _MIB) as volume:
            _say(f"the guest starts; the volume is {volume.device}")
            place = bed(volume, home, capped, size=wanted.size, cpus=wanted.cpus, iothread=wanted.iothread)
            with place as made:
                for number in range(wanted.rounds):
                    _round(results, made, number)
    return results


def _round(results: Results, made, number: int) -> None:
    wanted = results.wanted
    for part in (UNCAPPED, CAPPED):
        if part not in wanted.parts:
            continue
        for job in wanted.jobs:
            if part == UNCAPPED or job.small:
                _say(f"round {number + 1} of {wanted.rounds}, {part}: {job.title}")
                _job(results, made, part, job, backwards=bool(number % 2))
    if GROWTH in wanted.parts and DIRECT in wanted.paths:
        for part in [part for part in (UNCAPPED, CAPPED) if part in wanted.parts] or (UNCAPPED, CAPPED):
            _say(f"round {number + 1} of {wanted.rounds}: growth under load, {part}")
            with _cap_for(results, made, part):
                grown = measure_growth(made, 2 * wanted.runtime, each=part == CAPPED)
            results.growths.setdefault(part, []).append(grown)


def _job(results: Results, made, part: str, job, *, backwards: bool) -> None:
    """Run a job over each path; the order turns with the rounds, the paths of one mount stay together."""
    wanted = results.wanted
    # A write that virtio-fs left in the host's page cache is written back by the kernel, whom no cap meets.
    left_out = {VFS} if part == CAPPED else set()
    on_host = [path for path in (HOST, VFS_DIO, VFS) if path in wanted.paths and path not in left_out]
    mounts = [group for group in ([DIRECT] if DIRECT in wanted.paths else [], on_host) if group]
    for group in reversed(mounts) if backwards else mounts:
        with made.mounted(group[0]):
            for path in reversed(group) if backwards else group:
                with _cap_for(results, made, part):
                    results.add(
                        part, job.name, path, made.run(path, job, wanted.runtime, each=part == CAPPED)
                    )


def _cap_for(results: Results, made, part: str):
    return made.cap.of(made.volume.device, results.wanted.iops_cap if part == CAPPED else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--runtime", type=int, default=10, help="seconds of each run (10); a growth takes two"
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is measured (1)")
    parser.add_argument("--quick", action="store_true", help="one round of 3 seconds each, with a small file")
    parser.add_argument("--paths", default=",".join(PATHS), help=f"some of {','.join(PATHS)}")
    parser.add_argument("--only", default="", help="jobs whose name has this in it, as randwrite or qd32")
    parser.add_argument("--parts", default=f"{UNCAPPED},{CAPPED},{GROWTH}", help="some of the three")
    parser.add_argument("--iops-cap", type=int, default=1000, help="of the capped part (1000)")
    parser.add_argument("--size", type=int, default=512, help="of the file, in MiB (512)")
    parser.add_argument("--cpus", type=int, default=2, help="of the guest (2)")
    parser.add_argument("--iothread", action="store_true", help="a thread of its own for the guest's disk")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/datapath.md")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where on a disk (/var/tmp)")
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.rounds, wanted.runtime, wanted.size = 1, 3, 64
    wanted.size *= _MIB
    wanted.paths, wanted.parts = wanted.paths.split(","), wanted.parts.split(",")
    wanted.jobs = [job for job in JOBS if wanted.only in job.name]
    for asked, known in ((wanted.paths, PATHS), (wanted.parts, (UNCAPPED, CAPPED, GROWTH))):
        if wrong := set(asked) - set(known):
            parser.error(f"{', '.join(sorted(wrong))} is none of {', '.join(known)}")
    if not wanted.jobs:
        parser.error(f"no job is called {wanted.only}; there are: {', '.join(job.name for job in JOBS)}")
    if wanted.write_docs and not (set(wanted.paths) == set(PATHS) and len(wanted.jobs) == len(JOBS)):
        parser.error("--write-docs takes every job and every path")
    return wanted


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
