#!/usr/bin/env python3
"""Measure volumes in a real Kubernetes of one node, against the same pods without a driver, as root.

    make bench-cluster                                 # about seven minutes
    make bench-cluster ARGS="--quick"                  # whether it works, not how fast
    make bench-cluster ARGS="--rounds 20 --write-docs" # for the figures in docs/benchmarks.md

The cluster is that of the tier `kube`: real API server, scheduler, controllers, sidecars, kubelet and runc.
In each round every subject has its turn, in changing order. docs/benchmarks.md says what each number means.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from client import TREE

sys.path.insert(0, str(TREE / "tools"))
sys.path.insert(0, str(TREE / "tests"))
import cluster_costs
import cluster_nodes
import cluster_report
import figures
from cluster_lives import ASKING_CLASS, BOUND, FOLDER, HOST, STATIC_CLASS, SUBJECTS, Lives
from scratch import Failure

import kube_lab
import kube_programs
from kube_cluster import Failed, bound_cluster
from support.kube_chart import DRIVER, install
from support.kube_lab import Lab
from support.kube_objects import storage_class
from support.kube_release import Plugin, start_snapshot_controller

if TYPE_CHECKING:
    from support.kube_lab import Inside


#: At debug the driver logs each request.
QUIET = {"log": {"level": "info", "format": "json"}}


@dataclass
class Results:
    """What was measured.

    Attributes:
        lives: subject and at once to the seconds of each step, one for each life.
        crowds: how many nodes to the seconds in which claims were bound, and the requests of their lives.
        requests: subject to the requests of our accounts, and of how many lives they are.
        round_trips: method to the seconds of each bare request.
        resident: process to its MiB before the first volume and after the last.
        on_each_node: those of them that run on every node.
        at_once: how many lives ran at once.
        up_s: the seconds that the cluster took to boot.
    """

    lives: dict[tuple[str, int], dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    crowds: dict[int, tuple[list[float], cluster_costs.Requests]] = field(default_factory=dict)
    requests: dict[str, tuple[cluster_costs.Requests, int]] = field(default_factory=dict)
    round_trips: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident: dict[str, tuple[float, float]] = field(default_factory=dict)
    on_each_node: tuple[str, ...] = ()
    at_once: tuple[int, ...] = ()
    kubernetes: str = ""
    up_s: float = 0
    load: float = 0


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="lives of each subject, one by one (10)")
    parser.add_argument("--at-once", type=int, default=10, help="then so many at once, twice (10)")
    parser.add_argument(
        "--nodes", default="1,10", help="then with so many nodes, in turn; 0: leave it out (1,10)"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, two at once, two nodes")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/benchmarks.md")
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.rounds, wanted.at_once, wanted.nodes = 2, 2, "1,2"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that cleans up, as Ctrl-C is
    try:
        results = measure(wanted)
    except (Failure, Failed, AssertionError) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    if wanted.write_docs:
        machine, tables = cluster_report.machine(results), cluster_report.tables(results)
        figures.write("benchmarks.md", "bench-cluster", "end of figures of the cluster", machine, tables)
    if wanted.output == "json":
        print(json.dumps(cluster_report.as_json(results), indent=1))
    else:
        cluster_report.show_tables(results)
    return 0


def measure(wanted: argparse.Namespace) -> Results:
    """Boot, measure everything, and leave nothing behind.

    Raises:
        Failure: there can be no cluster here; or something did not come about.
    """
    if reason := kube_lab.why_not():
        raise Failure(reason)
    results = Results(at_once=(1, wanted.at_once), load=os.getloadavg()[0])
    results.kubernetes = kube_programs.versions()["k8s.io/kubernetes"]
    with bound_cluster(Path("/var/tmp")) as cluster:
        lab = Lab(cluster)
        results.up_s = max(lab.up().values())
        try:
            chart = install(lab)
            lab.api.apply(
                storage_class(STATIC_CLASS, "none", {}) | {"provisioner": "kubernetes.io/no-provisioner"}
            )
            lab.api.apply(storage_class(ASKING_CLASS, DRIVER, {"katacsi.io/pool": "default"}))
            plugin = Plugin(lab, chart, settings=QUIET)
            plugin.start()
            start_snapshot_controller(lab)
            assert plugin.driver is not None, "it was started"
            parts = {"katacsi": plugin.driver, **plugin.sidecars}
            results.on_each_node = ("katacsi", *plugin.sidecars)
            _measure(results, wanted, lab, plugin, parts)
        finally:
            lab.down()
    return results


def _measure(
    results: Results, wanted: argparse.Namespace, lab: Lab, plugin: Plugin, parts: dict[str, Inside]
) -> None:
    time.sleep(3)  # a process that just began may still be at work
    before = {name: cluster_costs.resident_mib(part) for name, part in parts.items()}
    with Lives(lab, plugin) as lives:
        for subject in SUBJECTS:  # what is done for the first time takes longer
            lives.run(subject, 1)
        counted: dict[str, cluster_costs.Requests] = defaultdict(Counter)
        for number in range(wanted.rounds):
            _say(f"round {number + 1} of {wanted.rounds}")
            _add(results.round_trips, cluster_costs.round_trips(lab.api, 30))
            for turn in range(len(SUBJECTS)):
                subject = SUBJECTS[(number + turn) % len(SUBJECTS)]
                since = lab.files.audit_log.stat().st_size
                _add(results.lives[subject, 1], lives.run(subject, 1))
                counted[subject] += cluster_costs.requests(lab, since)
        _say(f"{wanted.at_once} at once")
        for turn in range(max(1, wanted.rounds // 5)):
            for subject in SUBJECTS[turn:] + SUBJECTS[:turn]:
                _add(results.lives[subject, wanted.at_once], lives.run(subject, wanted.at_once))
        results.requests = {
            subject: (counted[subject], wanted.rounds) for subject in SUBJECTS if subject != FOLDER
        }
        results.resident = {
            name: (before[name], cluster_costs.resident_mib(part)) for name, part in parts.items()
        }
        there = 1
        for nodes in filter(None, map(int, wanted.nodes.split(","))):
            _crowd(results, plugin, lives, range(there + 1, nodes + 1), wanted.rounds)
            there = max(there, nodes)


def _crowd(results: Results, first: Plugin, lives: Lives, more: range, rounds: int) -> None:
    """Bring more nodes into the cluster, each with driver and sidecars, and measure lives on the first."""
    for number in more:
        _say(f"node {number}")
        cluster_nodes.add(first, number, QUIET)
    time.sleep(10)  # they tell the room of their classes
    since, seconds = first.lab.files.audit_log.stat().st_size, []
    for _ in range(rounds):
        seconds += lives.run(HOST, 1)[BOUND]
    results.crowds[more.stop - 1] = seconds, cluster_costs.requests(first.lab, since)


def _add(to: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    for name, values in more.items():
        to[name] += values


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
