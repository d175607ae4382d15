#!/usr/bin/env python3
"""Measure katacsi against the bare commands and against csi-driver-host-path, on this machine, as root.

    make bench                                  # about four minutes
    make bench ARGS="--quick"                   # one short round: whether it works, not how fast
    make bench ARGS="--rounds 9 --output json"

Every round measures each subject once, in changing order, so that what the machine does meanwhile meets all
of them; a ratio is the median of the rounds' ratios. docs/benchmarks.md says what each number means.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import load
import pool_size
import report
import servers
from load import Load
from report import BARE, BARE_TUNED, IN_FLIGHT
from scratch import Failure, scratch

from katacsi.host import mkfs
from katacsi.testing.leaks import filesystem_of


@dataclass
class Results:
    """What was measured: a list holds one value for each round.

    Attributes:
        loads: subject and in flight to the loads.
        probe_ms: server to the times from exec to the first Probe.
        resident_mib: server to its memory when idle, before any load.
        sizes: what `pool_size.measure` gave.
        host_path: which csi-driver-host-path it is; empty when there is none.
    """

    loads: dict[tuple[str, int], list[Load]] = field(default_factory=lambda: defaultdict(list))
    probe_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident_mib: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sizes: pool_size.Sizes | None = None
    host_path: str = ""

    def rate(self, subject: str, in_flight: int) -> float:
        """Lifecycles per second, the median of the rounds."""
        return median(part.rate for part in self.loads[subject, in_flight])

    def ratios(self, subject: str, baseline: str, in_flight: int) -> list[float]:
        """How many times as fast a subject is, in each round."""
        pairs = zip(self.loads[subject, in_flight], self.loads[baseline, in_flight], strict=True)
        return [ours.rate / theirs.rate for ours, theirs in pairs]


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds to take the median of (9)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in each round (2)")
    parser.add_argument("--quick", action="store_true", help="one round of one second, and 100 volumes")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where on a disk (/var/tmp)")
    parser.add_argument("--against", type=Path, help="another tree of katacsi, measured in the same rounds")
    parser.add_argument("--host-path", type=Path, help="csi-driver-host-path, built, to compare with as well")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that cleans up, as Ctrl-C is
    try:
        require_machine(arguments.folder)
        results = measure(arguments)
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    if arguments.output == "json":
        print(json.dumps(report.as_json(results), indent=1))
    else:
        report.show_tables(results)
    return 0


def require_machine(folder: Path) -> None:
    """See that this machine can be measured on.

    Raises:
        Failure: it cannot; what is missing is named.
    """
    if os.geteuid() != 0:
        raise Failure("needs root, for loop devices and mounts: sudo make bench")
    tools = ("truncate", "losetup", "blkid", "mkfs.ext4", "mount", "umount", "rm")
    if missing := [tool for tool in tools if not shutil.which(tool)]:
        raise Failure(f"{', '.join(missing)} not found: run tools/bootstrap.sh tools")
    if not Path("/dev/loop-control").exists():
        raise Failure("there is no /dev/loop-control: modprobe loop")
    if filesystem_of(folder) in {"tmpfs", "ramfs"}:
        raise Failure(f"{folder} is in memory; name a folder on a disk by --folder")


def measure(wanted: argparse.Namespace) -> Results:
    """Measure everything."""
    results = Results(host_path=host_path_version(wanted.host_path) if wanted.host_path else "")
    with scratch(wanted.folder) as home:
        drivers = [servers.katacsi(home)]
        if wanted.against:
            drivers.append(servers.katacsi(home, report.OTHER, wanted.against.resolve()))
        if wanted.host_path:
            drivers.append(servers.host_path(home, wanted.host_path.resolve()))
        for number in range(wanted.rounds):
            _say(f"round {number + 1} of {wanted.rounds}")
            _round(results, drivers, wanted.seconds, home / f"bare-{number}", turn=number)
        full, turns = (100, 10) if wanted.quick else (1000, 60)
        _say(f"10 and {full:,} volumes in a pool")
        results.sizes = pool_size.measure(home, full=full, turns=turns)
    return results


def _round(
    results: Results,
    drivers: list[servers.Server],
    seconds: float,
    home: Path,
    *,
    turn: int,
) -> None:
    try:
        for driver in drivers:
            for _ in range(3):
                driver.stop()
                results.probe_ms[driver.name].append(driver.start())
        time.sleep(0.5)  # a server that just began may still be at work
        for driver in drivers:
            results.resident_mib[driver.name].append(driver.resident_mib())
            load.run(driver, 2, seconds / 8)  # warm
        for in_flight in IN_FLIGHT:
            subjects = [*drivers, BARE, BARE_TUNED]
            for _ in range(turn % len(subjects)):
                subjects.append(subjects.pop(0))
            for subject in subjects:
                if isinstance(subject, servers.Server):
                    part = load.run(subject, in_flight, seconds)
                    results.loads[subject.name, in_flight].append(part)
                else:
                    part = _bare(subject, in_flight, seconds, home)
                    results.loads[subject, in_flight].append(part)
    finally:
        for driver in drivers:
            driver.stop()


def _bare(kind: str, in_flight: int, seconds: float, home: Path) -> Load:
    """Run the bare commands in so many workers at once."""
    flags = {"losetup": [], "mkfs": ["-q", "-F"]}
    if kind == BARE_TUNED:
        _, *arguments, _ = mkfs.command_line(Path("device"), "ext4", str(uuid.uuid4()), zeroed=True)
        flags = {"losetup": ["--direct-io=on", "--sector-size=4096"], "mkfs": arguments}
    workers = []
    try:
        for number in range(in_flight):
            folder = home / f"{'tuned' if kind == BARE_TUNED else 'plain'}-{in_flight}-{number}"
            command = [sys.executable, "-I", "-S", Path(__file__).with_name("bare.py"), folder, str(seconds)]
            workers.append(
                subprocess.Popen(
                    [*command, json.dumps(flags)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
        for worker in workers:
            if worker.stdout.readline() != "ready\n":
                raise Failure("a worker of the bare commands did not start")
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        answers = [worker.communicate()[0] for worker in workers]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
                worker.wait()
    if any(worker.returncode for worker in workers):
        raise Failure("a bare command failed; its words are above")
    return _joined([json.loads(answer) for answer in answers])


def _joined(parts: list[dict]) -> Load:
    whole = Load()
    for part in parts:
        whole.lifecycles += part["lifecycles"]
        whole.seconds = max(whole.seconds, part["ended"])
        whole.server_cpu += part["commands_cpu"]
        whole.client_cpu += part["own_cpu"]
        for step, times in part["steps"].items():
            whole.steps[step] += times
    return whole


def host_path_version(program: Path) -> str:
    """Give what csi-driver-host-path says of its version.

    Raises:
        Failure: it cannot be run.
    """
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"--host-path {program}: cannot be run ({error}); name the built program") from error
    _, _, version = answer.stdout.strip().partition(" ")  # "hostpathplugin v1.18.0"
    return version or "of an unknown version"


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
