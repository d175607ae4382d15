"""The part of docs/benchmarks.md that `make bench-cluster` measures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import cluster_report as report
from client import TREE
from scratch import Failure

if TYPE_CHECKING:
    from cluster import Results

PAGE = TREE / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures: written by make bench-cluster -->\n", "<!-- end of figures of the cluster -->"


def write(results: Results) -> None:
    """Replace the figures of the page.

    Raises:
        Failure: the page has no place for them.
    """
    page = PAGE.read_text("utf-8")
    place = re.compile(f"(?<={re.escape(_BEGIN)}).*?(?={re.escape(_END)})", re.DOTALL)
    if not place.search(page):
        raise Failure(f"{PAGE} lacks the line {_BEGIN.strip()} or {_END}")
    parts = [f"{report.machine(results)}.", *(table.markdown() for table in report.tables(results))]
    text = "\n" + "\n\n".join(parts) + "\n\n"
    PAGE.write_text(place.sub(lambda _: text, page), "utf-8")
