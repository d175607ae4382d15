"""What was measured, as tables and as JSON: ratios first, then the figures they come from."""

from __future__ import annotations

import os
import platform
from statistics import median, quantiles
from typing import TYPE_CHECKING

from aims import Aim, aims_table
from tables import Table, show, spread

if TYPE_CHECKING:
    from load import Load
    from run import Results

KATACSI = "katacsi"
HOST_PATH = "host-path"
OTHER = "katacsi-other"
BARE = "bare commands"
BARE_TUNED = "bare, katacsi's flags"
IN_FLIGHT = (1, 8)

NO_HOST_PATH = """\
Nothing is compared with csi-driver-host-path: no registry serves the program. Where you have it, add to ARGS:
    --host-path /path/to/hostpathplugin"""

#: One operation with many volumes may cost this many times what it costs with few; a run's noise is near 1.2.
_FLAT = 1.25


def aims(results: Results) -> list[Aim]:
    """Compare with what was promised."""
    found = []
    for in_flight in IN_FLIGHT:
        for baseline, least in ((HOST_PATH, 1.15 if in_flight == 1 else 1.8), (BARE, 1.0)):
            if (baseline, in_flight) in results.loads:
                ratios = results.ratios(KATACSI, baseline, in_flight)
                name = f"lifecycles/s against {baseline}, {in_flight} in flight"
                found.append(Aim(name, f">= {least:.1f} x", spread(ratios), median(ratios) >= least))
    resident, probe = median(results.resident_mib[KATACSI]), median(results.probe_ms[KATACSI])
    found.append(Aim("resident memory when idle", "<= 48 MiB", f"{resident:.1f} MiB", resident <= 48))
    found.append(Aim("exec to first Probe", "<= 400 ms", f"{probe:.0f} ms", probe <= 400))
    if sizes := results.sizes:
        ratio = sum(many for _, many in sizes.steps.values()) / sum(few for few, _ in sizes.steps.values())
        name = f"a lifecycle with {sizes.full:,} volumes in the pool against one with 10"
        found.append(Aim(name, "near 1", f"{ratio:.2f} x", ratio <= _FLAT))
    return found


def show_tables(results: Results) -> None:
    """Print the tables."""
    show(
        [
            aims_table("katacsi against what was promised", aims(results)),
            _loads_table(results),
            _steps_table(results, (KATACSI, OTHER, HOST_PATH), "Milliseconds per RPC: p50 / p95"),
            _steps_table(results, (BARE, BARE_TUNED), "Milliseconds per bare command: p50 / p95"),
            _servers_table(results),
            *([_sizes_table(results)] if results.sizes else []),
        ],
        _machine_line(results),
    )


def as_json(results: Results) -> dict:
    """Give everything as plain data."""
    sizes = results.sizes
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "host_path": results.host_path,
        },
        "aims": [vars(aim) for aim in aims(results)],
        "loads": [
            {
                "subject": subject,
                "in_flight": in_flight,
                "lifecycles_per_second": [part.rate for part in parts],
                "median": results.rate(subject, in_flight),
                "katacsi_is_times_as_fast": results.ratios(KATACSI, subject, in_flight),
                "cpu_ms_per_lifecycle": _cpu_ms(parts),
                "retries": sum(part.retries for part in parts),
                "client_cpu_ms_per_lifecycle": _client_ms(parts),
                "steps_ms": {
                    step: dict(zip(("p50", "p95"), _percentiles(times), strict=True))
                    for step, times in _steps(parts).items()
                },
            }
            for (subject, in_flight), parts in results.loads.items()
        ],
        "resident_mib": dict(results.resident_mib),
        "first_probe_ms": dict(results.probe_ms),
        "pool_size": sizes
        and {"full": sizes.full, "steps_ms": sizes.steps, "first_probe_ms": sizes.probe_ms},
    }


def _loads_table(results: Results) -> Table:
    rows = []
    for in_flight in IN_FLIGHT:
        for subject in (KATACSI, OTHER, HOST_PATH, BARE, BARE_TUNED):
            if parts := results.loads.get((subject, in_flight)):
                ratios = "" if subject == KATACSI else spread(results.ratios(KATACSI, subject, in_flight))
                rate = f"{results.rate(subject, in_flight):.1f}"
                cpu, client = f"{_cpu_ms(parts):.1f}", f"{_client_ms(parts):.1f}"
                rows.append((subject, str(in_flight), rate, ratios, cpu, client))
    title = "Lifecycles of a 64 MiB ext4 direct volume: medians of the rounds (least to greatest)"
    heads = ("subject", "in flight", "lifecycles/s", "katacsi is, times", "CPU ms each", "client's")
    return Table(title, heads, rows, section_by=1)


def _steps_table(results: Results, subjects: tuple[str, ...], title: str) -> Table:
    columns = [key for subject in subjects for n in IN_FLIGHT if (key := (subject, n)) in results.loads]
    heads = tuple(f"{subject}, {in_flight} in flight" for subject, in_flight in columns)
    cells = [_steps(results.loads[key]) for key in columns]
    rows = [
        (step, *("{:.1f} / {:.1f}".format(*_percentiles(part[step])) for part in cells)) for step in cells[0]
    ]
    return Table(title, ("step", *heads), rows)


def _servers_table(results: Results) -> Table:
    rows = [
        (name, f"{median(results.resident_mib[name]):.1f}", f"{median(times):.0f}")
        for name, times in results.probe_ms.items()
    ]
    return Table("The processes", ("driver", "idle MiB", "exec to first Probe, ms"), rows)


def _sizes_table(results: Results) -> Table:
    sizes = results.sizes
    rows = [
        (step, f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}") for step, (few, many) in sizes.steps.items()
    ]
    few, many = sizes.probe_ms
    rows.append(("exec to first Probe", f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}"))
    title = "Milliseconds by the number of volumes in the pool"
    return Table(title, ("step", "10 volumes", f"{sizes.full:,} volumes", "ratio"), rows)


def _machine_line(results: Results) -> str:
    rounds = len(results.loads[KATACSI, 1])
    facts = [f"{rounds} rounds", f"{os.cpu_count()} CPUs", f"Linux {platform.release()}"]
    facts.append(f"Python {platform.python_version()}")
    if retries := sum(part.retries for parts in results.loads.values() for part in parts):
        facts.append(f"{retries} calls failed and were made again")
    if (HOST_PATH, 1) in results.loads:
        return f"{', '.join(facts)}; csi-driver-host-path {results.host_path}"
    return f"{', '.join(facts)}\n\n{NO_HOST_PATH}"


def _steps(parts: list[Load]) -> dict[str, list[float]]:
    return {step: [time for part in parts for time in part.steps[step]] for step in parts[0].steps}


def _percentiles(times: list[float]) -> tuple[float, float]:
    """Give p50 and p95 in milliseconds."""
    if len(times) < 2:
        return times[0] * 1000, times[0] * 1000
    cuts = quantiles(times, n=20)
    return median(times) * 1000, cuts[18] * 1000


def _cpu_ms(parts: list[Load]) -> float:
    return median(part.server_cpu / part.lifecycles for part in parts) * 1000


def _client_ms(parts: list[Load]) -> float:
    return median(part.client_cpu / part.lifecycles for part in parts) * 1000
