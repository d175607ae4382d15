"""The measured part of docs/datapath.md, and the picture beside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import datapath_plot
import datapath_report as report
from client import TREE
from datapath_fio import JOBS
from datapath_paths import DIRECT, PATHS
from datapath_report import CAPPED, UNCAPPED
from scratch import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datapath import Results

PAGE = TREE / "docs" / "datapath.md"
PICTURE = TREE / "docs" / "images" / "datapath.svg"
_BEGIN, _END = "<!-- figures: written by make bench-datapath -->\n", "<!-- end of figures -->"


def write(results: Results) -> None:
    """Replace the figures of the page, and the picture.

    Raises:
        Failure: the page has no place for them.
    """
    page = PAGE.read_text("utf-8")
    place = re.compile(f"(?<={re.escape(_BEGIN)}).*?(?={re.escape(_END)})", re.DOTALL)
    if not place.search(page):
        raise Failure(f"{PAGE} lacks the line {_BEGIN.strip()} or {_END}")
    text = "\n" + "\n".join(_lines(results)) + "\n\n"
    PAGE.write_text(place.sub(lambda _: text, page), "utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(datapath_plot.svg(results), "utf-8")


def _lines(results: Results) -> Iterator[str]:
    yield f"{report.machine(results)}."
    yield ""
    yield from _table(
        ("promised of the direct path", "", "measured, the worst of all jobs and rounds", ""),
        (
            (aim.name, aim.promised, aim.measured, "met" if aim.met else "**missed**")
            for aim in report.aims(results)
        ),
    )
    baselines = [path for path in PATHS if path != DIRECT]
    for part, title in (
        (UNCAPPED, "As fast as it goes"),
        (CAPPED, f"On a device of {results.wanted.iops_cap:,} IOPS"),
    ):
        shown = [path for path in baselines if any(results.of(part, job.name, path) for job in JOBS)]
        if not shown:
            continue
        yield from ("", f"**{title}**: direct has how many times the rate of", "")
        ratios = {job: [report.ratio(results, part, job, path) for path in shown] for job in JOBS}
        yield from _table(
            ("job", *shown),
            (
                (job.title, *(f"{value:.2f}" for value in found))
                for job, found in ratios.items()
                if any(found)
            ),
        )
        yield ""
        yield from _table(
            ("job", "path", "rate", "p99 ms", "variation", "seconds at zero"),
            (
                (
                    *(job.title, path, report.speed(job, samples), report.milliseconds(samples)),
                    *(report.worst_variation(samples), report.at_zero(samples)),
                )
                for job, path, samples in report.rows(results, part)
            ),
        )
    if results.growths:
        yield from ("", "**The volume grows while the guest writes at depth 32**", "")
        yield from _table(
            ("device", "IOPS", "worst second / mean", "variation", "seconds at zero"),
            (
                (
                    *(part, f"{growth.sample.iops:,.0f}", f"{growth.sample.worst:.2f}"),
                    *(f"{growth.sample.variation:.3f}", str(growth.sample.at_zero)),
                )
                for part, growths in results.growths.items()
                for growth in growths
            ),
        )


def _table(heads: tuple[str, ...], cells: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in cells:
        yield f"| {' | '.join(row)} |"
