"""What was measured, as tables and as JSON: ratios first, then the figures they come from."""

from __future__ import annotations

import os
import platform
from statistics import median, quantiles
from typing import TYPE_CHECKING

import tables
from aims import Aim, aims_table

if TYPE_CHECKING:
    from load import Load
    from rich.table import Table
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
        for baseline, least in ((HOST_PATH, 1.5 if in_flight == 1 else 2.0), (BARE, 1.0)):
            if (baseline, in_flight) in results.loads:
                ratio = results.ratio(KATACSI, baseline, in_flight)
                name = f"lifecycles/s against {baseline}, {in_flight} in flight"
                found.append(Aim(name, f">= {least:.1f} x", f"{ratio:.2f} x", ratio >= least))
    resident, probe = median(results.resident_mib[KATACSI]), median(results.probe_ms[KATACSI])
    found.append(Aim("resident memory when idle", "<= 48 MiB", f"{resident:.1f} MiB", resident <= 48))
    found.append(Aim("exec to first Probe", "<= 400 ms", f"{probe:.0f} ms", probe <= 400))
    if sizes := results.sizes:
        ratio = sum(many for _, many in sizes.steps.values()) / sum(few for few, _ in sizes.steps.values())
        name = f"a lifecycle with {sizes.full:,} volumes in the pool against one with 10"
        found.append(Aim(name, "near 1", f"{ratio:.2f} x", ratio <= _FLAT))
    return found


def show(results: Results) -> None:
    """Print the tables."""
    console = tables.console()
    console.print(aims_table("katacsi against what was promised", aims(results)))
    console.print(_loads_table(results))
    console.print(_steps_table(results, (KATACSI, OTHER, HOST_PATH), "Milliseconds per RPC: p50 / p95"))
    console.print(_steps_table(results, (BARE, BARE_TUNED), "Milliseconds per bare command: p50 / p95"))
    console.print(_servers_table(results))
    if results.sizes:
        console.print(_sizes_table(results))
    console.print(_machine_line(results), soft_wrap=True)


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
                "katacsi_is_times_as_fast": results.ratio(KATACSI, subject, in_flight),
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
    table = tables.titled("Lifecycles of a 64 MiB ext4 direct volume: medians of the rounds", "subject")
    for head in ("in flight", "lifecycles/s", "katacsi is", "CPU ms each", "client's"):
        table.add_column(head, justify="right")
    for in_flight in IN_FLIGHT:
        for subject in (KATACSI, OTHER, HOST_PATH, BARE, BARE_TUNED):
            if parts := results.loads.get((subject, in_flight)):
                ratio = "" if subject == KATACSI else f"{results.ratio(KATACSI, subject, in_flight):.2f} x"
                rate = f"{results.rate(subject, in_flight):.1f}"
                cpu, client = f"{_cpu_ms(parts):.1f}", f"{_client_ms(parts):.1f}"
                table.add_row(subject, str(in_flight), rate, ratio, cpu, client)
        table.add_section()
    return table


def _steps_table(results: Results, subjects: tuple[str, ...], title: str) -> Table:
    table = tables.titled(title, "step")
    columns = [key for subject in subjects for n in IN_FLIGHT if (key := (subject, n)) in results.loads]
    for subject, in_flight in columns:
        table.add_column(f"{subject}, {in_flight} in flight", justify="right")
    cells = [_steps(results.loads[key]) for key in columns]
    for step in cells[0]:
        table.add_row(step, *("{:.1f} / {:.1f}".format(*_percentiles(part[step])) for part in cells))
    return table


def _servers_table(results: Results) -> Table:
    table = tables.titled("The processes", "driver")
    table.add_column("idle MiB", justify="right")
    table.add_column("exec to first Probe, ms", justify="right")
    for name, times in results.probe_ms.items():
        table.add_row(name, f"{median(results.resident_mib[name]):.1f}", f"{median(times):.0f}")
    return table


def _sizes_table(results: Results) -> Table:
    sizes = results.sizes
    table = tables.titled("Milliseconds by the number of volumes in the pool", "step")
    for head in ("10 volumes", f"{sizes.full:,} volumes", "ratio"):
        table.add_column(head, justify="right")
    for step, (few, many) in sizes.steps.items():
        table.add_row(step, f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}")
    few, many = sizes.probe_ms
    table.add_row("exec to first Probe", f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}")
    return table


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
