#!/usr/bin/env python3
"""Draw the chart's Grafana dashboard as docs/dashboard.svg; with --check, say if it is up to date.

    .venv/bin/python tools/dashboard.py
    .venv/bin/python tools/dashboard.py --check

The picture has the panels of the dashboard's JSON where Grafana puts them, with their titles, units and
legends; the figures are invented. Neither Grafana nor a Prometheus is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parent.parent
SOURCE = TREE / "charts" / "katacsi" / "dashboards" / "katacsi.json"
TARGET = TREE / "docs" / "dashboard.svg"

#: Values of the labels that legends name; for a label that is missing here nothing is drawn.
SAMPLES: dict[str, tuple[str, ...]] = {
    "code": ("ABORTED", "RESOURCE_EXHAUSTED"),
    "filesystem": ("ext4", "xfs"),
    "method": ("CreateVolume", "NodeStageVolume", "NodePublishVolume"),
    "mode": ("direct", "host", "block"),
    "node": ("worker-1", "worker-2", "worker-3"),
    "outcome": ("ok", "refused"),
    "pool": ("default",),
    "runtime": ("go", "rust"),
    "tool": ("blkid", "mkfs.ext4", "losetup"),
    "verb": ("get", "create"),
    "version": ("0.1.0",),
}
#: The number of a stat panel that has one, by its title; what is to be looked at shows something to look at.
NUMBERS = {
    "Volumes in use": (37, 12, 3),
    "Growths that wait for a pod": (2,),
    "Orphaned volumes": (1,),
    "Versions": (3,),
}
#: The height of a line, by unit: (largest value, how it is written).
UNITS = {
    "bytes": (400.0, "{:.0f} GiB"),
    "ops": (0.4, "{:.2f}/s"),
    "s": (0.8, "{:.2f} s"),
    "short": (24.0, "{:.0f}"),
}

WIDTH, COLUMNS, ROW, GAP, TOP = 1200, 24, 26, 8, 44
POINTS = 48
LINES = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#e02f44", "#b877d9")
TEXT, DULL, PANEL, GROUND, GRID = "#d8d9da", "#9a9da1", "#181b1f", "#111217", "#2c2f34"


class Failure(Exception):
    """The picture cannot be drawn; the message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Draw, or compare; return the exit status: 1 for a picture that is out of date, 2 for one not drawn."""
    parser = argparse.ArgumentParser(description="Draw the chart's dashboard.")
    parser.add_argument("--check", action="store_true", help="only compare; fail on a difference")
    check = parser.parse_args(arguments).check
    try:
        wanted = picture(json.loads(SOURCE.read_text("utf-8")))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 2
    if not check:
        TARGET.write_text(wanted, "utf-8")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != wanted:
        print(f"{TARGET.relative_to(TREE)} is out of date; run tools/dashboard.py")
        return 1
    return 0


def picture(dashboard: dict[str, Any]) -> str:
    """Give the dashboard as SVG; the same for the same dashboard, on every machine."""
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    height = TOP + max(place["y"] + place["h"] for place in places) * ROW + GAP
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Inter, Helvetica, Arial, sans-serif">',
        "<!-- Drawn by tools/dashboard.py from the JSON in charts/katacsi/dashboards. -->",
        f'<rect width="{WIDTH}" height="{height}" fill="{GROUND}"/>',
        _text(GAP, 26, dashboard["title"], size=17),
        _text(WIDTH - GAP, 26, "an example: the figures are invented", color=DULL, anchor="end"),
    ]
    for panel in dashboard["panels"]:
        lines += _panel(panel)
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: dict[str, Any]) -> Iterator[str]:
    place, unit = panel["gridPos"], panel["fieldConfig"]["defaults"]["unit"]
    if unit not in UNITS:
        raise Failure(f"panel {panel['title']!r}: the unit {unit!r} has no sample in tools/dashboard.py")
    wide = WIDTH / COLUMNS
    x, y = place["x"] * wide + GAP / 2, TOP + place["y"] * ROW
    width, height = place["w"] * wide - GAP, place["h"] * ROW - GAP
    yield f'<g transform="translate({x:.0f} {y})">'
    yield f'<rect width="{width:.0f}" height="{height}" rx="3" fill="{PANEL}" stroke="{GRID}"/>'
    yield _text(10, 20, panel["title"])
    yield f"<title>{escape(panel['description'])}</title>"
    names = [name for target in panel["targets"] for name in _series(target["legendFormat"])]
    if panel["type"] == "stat":
        yield from _numbers(panel, names, width, height)
    else:
        yield from _lines(panel["title"], names, unit, width, height)
    yield "</g>"


def _series(legend: str) -> list[str]:
    """Give the names of a panel's lines: its legend with every sample of its labels, at most six."""
    labels = re.findall(r"{{(\w+)}}", legend)
    if unknown := [label for label in labels if label not in SAMPLES]:
        raise Failure(f"the legend {legend!r}: {', '.join(unknown)} has no sample in tools/dashboard.py")
    found = []
    for values in itertools.product(*(SAMPLES[label] for label in labels)):
        chosen = dict(zip(labels, values, strict=True))
        found.append(legend.replace("{{", "{").replace("}}", "}").format(**chosen))
    return found[: len(LINES)]


def _numbers(panel: dict[str, Any], names: list[str], width: float, height: float) -> Iterator[str]:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())
    values = NUMBERS.get(panel["title"], (0,) * len(names))
    wide = width / len(names)
    for at, (name, value) in enumerate(zip(names, values, strict=True)):
        above = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        color = {"green": LINES[0], "orange": LINES[3], "red": LINES[4]}[above[-1]] if above else LINES[0]
        middle = wide * (at + 0.5)
        yield _text(middle, height - 30, str(value), size=30, color=color, anchor="middle")
        yield _text(middle, height - 10, name, color=DULL, anchor="middle")


def _lines(title: str, names: list[str], unit: str, width: float, height: float) -> Iterator[str]:
    most, written = UNITS[unit]
    left, top, right, bottom = 62.0, 32.0, width - 12, height - 30.0
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        yield f'<path d="M{left:.0f} {y:.0f}H{right:.0f}" stroke="{GRID}"/>'
        yield _text(left - 6, y + 4, written.format(share * most), size=10, color=DULL, anchor="end")
    at = left
    for name, color in zip(names, LINES, strict=False):
        following = at + 26 + 6.2 * len(name)
        if following > right:
            break
        points = [
            f"{left + step * (right - left) / (POINTS - 1):.0f},{bottom - share * (bottom - top):.0f}"
            for step, share in enumerate(_shares(f"{title}/{name}", steady=unit in ("bytes", "short")))
        ]
        yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        yield f'<rect x="{at:.0f}" y="{height - 18:.0f}" width="10" height="3" fill="{color}"/>'
        yield _text(at + 14, height - 12, name, size=10, color=DULL)
        at = following


def _shares(name: str, *, steady: bool) -> list[float]:
    """Give a line between 0 and 1 that is always the same for a name: in steps, or in waves."""
    seed = zlib.crc32(name.encode())
    base, phase = 0.15 + (seed % 61) / 100, seed % 7
    if steady:
        return [round(base + 0.04 * ((step + phase) // 9), 3) for step in range(POINTS)]
    waves = (math.sin(step / 3 + phase) + math.sin(step * 0.9 + seed % 5) for step in range(POINTS))
    return [round(base * (0.6 + 0.2 * wave), 3) for wave in waves]


def _text(x: float, y: float, words: str, *, size: int = 12, color: str = TEXT, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


if __name__ == "__main__":
    raise SystemExit(main())
