"""The figures of the data path as one picture: how much each path carries, and how evenly."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

from datapath_fio import BY_NAME, JOBS
from datapath_paths import DIRECT, HOST, PATHS, VFS, VFS_DIO
from datapath_report import CAPPED, UNCAPPED, speed
from datapath_svg import Bar, Curve, Drawing, bars, curves

if TYPE_CHECKING:
    from datapath import Results

COLOURS = {HOST: "#98a2b0", DIRECT: "#0072b2", VFS_DIO: "#e69f00", VFS: "#cc79a7"}
NAMES = {
    HOST: "host: the device mounted there",
    DIRECT: "direct: plugged into the guest",
    VFS_DIO: "vfs-dio: virtio-fs, O_DIRECT kept",
    VFS: "vfs: virtio-fs by default",
}
_MARGIN, _COLUMN, _GAP = 28, 288, 32


def svg(results: Results) -> str:
    """Draw everything that was measured."""
    drawing = Drawing(_MARGIN * 2 + _COLUMN * 3 + _GAP * 2, 830)
    drawing.text(_MARGIN, 38, "I/O in the guest, by the way it takes", size=20, bold=True)
    drawing.soft(
        _MARGIN,
        58,
        "The guest's CPU is emulated, some fifteen times slower than a real one: as fast as it goes, the"
        " distance to the host is the emulator's.",
    )
    _legend(drawing, 82)
    _throughput(drawing, results, 128)
    _second_by_second(drawing, results, 392)
    return drawing.svg()


def _legend(to: Drawing, y: float) -> None:
    x = float(_MARGIN)
    for path in PATHS:
        to.box(x, y - 10, 12, 12, COLOURS[path])
        to.text(x + 18, y, NAMES[path], size=11.5)
        x += 36 + 6.1 * len(NAMES[path])


def _throughput(to: Drawing, results: Results, y: float) -> None:
    to.text(_MARGIN, y, "As fast as it goes", size=15, bold=True)
    for number, job in enumerate(JOBS):
        found = [
            Bar(path, mean(s.mb_s for s in samples), speed(job, samples), COLOURS[path])
            for path in PATHS
            if (samples := results.of(UNCAPPED, job.name, path))
        ]
        # Jobs of a kind below each other: reads above, writes below.
        column, row = divmod(number, 2)
        bars(to, (_MARGIN + column * (_COLUMN + _GAP), y + 28 + 116 * row), _COLUMN, job.title, found)


def _second_by_second(to: Drawing, results: Results, y: float) -> None:
    to.text(_MARGIN, y, "Second by second: IOPS at depth 32", size=15, bold=True)
    width = (3 * _COLUMN + _GAP) / 2
    for number, (part, name, words) in enumerate(
        (
            (UNCAPPED, "randread-4k-qd32", "Random read, as fast as it goes"),
            (UNCAPPED, "randwrite-4k-qd32", "Random write, as fast as it goes"),
            (CAPPED, "randwrite-4k-qd32", f"Random write on a device of {results.wanted.iops_cap:,} IOPS"),
        )
    ):
        # The host's own speed is another scale; it is in the picture where it is the same.
        paths = [path for path in PATHS if path != HOST or part == CAPPED]
        found = [
            Curve(COLOURS[path], samples[0].seconds, "5 4" if part == CAPPED and path != DIRECT else "")
            for path in sorted(paths, key=lambda path: path == DIRECT)
            if (samples := results.of(part, BY_NAME[name].name, path))
        ]
        row, column = divmod(number, 2)
        at = (_MARGIN + column * (width + _GAP), y + 28 + 212 * row)
        curves(to, at, (width, 180), words, found)
    grown = [(part, growths[0]) for part, growths in results.growths.items()]
    marks = (
        [(grown[0][1].grown_s, "device grown"), (grown[0][1].filled_s, "filesystem grown")] if grown else []
    )
    found = [
        Curve(COLOURS[DIRECT], growth.sample.seconds, "5 4" if part == CAPPED else "")
        for part, growth in grown
    ]
    words = "Random write, direct, while the volume grows (dashed: capped)"
    curves(to, (_MARGIN + width + _GAP, y + 28 + 212), (width, 180), words, found, marks=marks)
