"""What was measured in a cluster, as tables and as JSON: ratios first."""

from __future__ import annotations

import os
import platform
from statistics import median, quantiles
from typing import TYPE_CHECKING

from cluster_costs import ROOM
from cluster_lives import ASKED, BOUND, DIRECT, FOLDER, HOST, PUBLISHED, RUNNING, STEPS, SUBJECTS
from tables import Table, show, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster import Results


def tables(results: Results) -> list[Table]:
    """Give the tables."""
    crowds = [_crowds(results)] if results.crowds else []
    return [_ratios(results), _times(results), _requests(results), *crowds, _memory(results)]


def show_tables(results: Results) -> None:
    """Print the tables."""
    show(tables(results), machine(results))


def machine(results: Results) -> str:
    """Say what it was measured on."""
    load = ", ".join(f"{part:.1f}" for part in (results.load, os.getloadavg()[0]))
    return (
        f"{os.cpu_count()} CPUs, Linux {platform.release()}, Kubernetes {results.kubernetes}, "
        f"load before and after: {load}; up in {results.up_s:.1f} s"
    )


def as_json(results: Results) -> dict:
    """Give everything as plain data."""
    return {
        "machine": machine(results),
        "lives_s": [
            {"subject": subject, "at_once": at_once, "steps": steps}
            for (subject, at_once), steps in results.lives.items()
        ],
        "round_trips_s": results.round_trips,
        "requests": [
            {"subject": subject, "account": account, "request": request, "per_volume": count / lives}
            for subject, (counted, lives) in results.requests.items()
            for (account, request), count in counted.items()
        ],
        "nodes": {nodes: {"bound_s": seconds} for nodes, (seconds, _) in results.crowds.items()},
        "resident_mib": results.resident,
    }


def _ratios(results: Results) -> Table:
    rows = []
    for (subject, at_once), steps in results.lives.items():
        floor = results.lives[FOLDER, at_once]
        if subject != FOLDER:
            for step in (BOUND, RUNNING):
                if at_once == 1:
                    ratios = [ours / theirs for ours, theirs in zip(steps[step], floor[step], strict=True)]
                    rows.append((subject, "1", step, _middle(ratios, 2)))
                else:  # those of one moment have no order in which they could be compared one by one
                    ratio = median(steps[step]) / median(floor[step])
                    rows.append((subject, str(at_once), step, f"{ratio:.2f}"))
    write = median(results.round_trips["PATCH"])
    for subject in (HOST, DIRECT, ASKED):
        for step in (BOUND, PUBLISHED):
            ratios = [each / write for each in results.lives[subject, 1][step]]
            rows.append((f"{subject}, against one API write", "1", step, _middle(ratios, 0)))
    return Table(
        "How many times the floor: median (half of them lie in)",
        ("subject", "at once", "step", ""),
        rows,
        text=3,
    )


def _times(results: Results) -> Table:
    rows = [
        (step, subject, str(at_once), *_percentiles(results.lives[subject, at_once][step]))
        for step in STEPS
        for at_once in results.at_once
        for subject in SUBJECTS
        if step in results.lives[subject, at_once]
    ]
    rows += [
        (f"one API request: {method}", "", "1", *_percentiles(times))
        for method, times in results.round_trips.items()
    ]
    return Table("Milliseconds", ("step", "subject", "at once", "p50", "p95"), rows, text=3, section_by=0)


def _requests(results: Results) -> Table:
    rows = []
    for subject, (counted, lives) in results.requests.items():
        accounts = sorted({account for account, _ in counted})
        for account in accounts:
            own = {request: count for (who, request), count in counted.items() if who == account}
            words = ", ".join(f"{request} {count / lives:.1f}" for request, count in sorted(own.items()))
            rows.append((subject, account, words, f"{sum(own.values()) / lives:.1f}"))
        asked = sum(count for (who, _), count in counted.items() if who != ROOM)
        rows.append((subject, "all that a volume needs", "", f"{asked / lives:.1f}"))
    return Table(
        "API requests for one life of a volume; watches, lists and leases apart",
        ("subject", "account", "which", "sum"),
        rows,
        text=3,
        section_by=0,
    )


def _crowds(results: Results) -> Table:
    rows = []
    for nodes, (seconds, counted) in results.crowds.items():
        room = sum(count for (who, _), count in counted.items() if who == ROOM)
        asked = (sum(counted.values()) - room) / len(seconds)
        rows.append((str(nodes), *_percentiles(seconds), f"{asked:.1f}", f"{room / len(seconds):.1f}"))
    return Table(
        "Nodes with driver and sidecars: milliseconds until a claim is bound, API requests for one life",
        ("nodes", "p50", "p95", "requests", "and for the room of the classes"),
        rows,
    )


def _memory(results: Results) -> Table:
    rows = [(name, *(f"{mib:.1f}" for mib in parts)) for name, parts in results.resident.items()]
    node = [parts for name, parts in results.resident.items() if name in results.on_each_node]
    rows.append(("all on a node", *(f"{sum(parts):.1f}" for parts in zip(*node, strict=True))))
    return Table(
        "Resident MiB: before the first volume, after the last", ("process", "before", "after"), rows
    )


def _percentiles(seconds: Sequence[float]) -> tuple[str, str]:
    cut = quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else list(seconds) * 19
    return f"{median(seconds) * 1e3:.1f}", f"{cut[18] * 1e3:.1f}"


def _middle(values: Sequence[float], digits: int) -> str:
    """Give the median, with the quartiles: one stray pod says nothing of the others."""
    if len(values) < 4:
        return spread(values, digits)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
