"""Writing what was measured into a page of docs/."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from client import TREE
from scratch import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tables import Table


def write(page: str, command: str, end: str, machine: str, tables: Iterable[Table]) -> None:
    """Replace the figures that a command of make once wrote into a page, up to the comment that ends them.

    Raises:
        Failure: the page has no place for them.
    """
    file = TREE / "docs" / page
    before, after = f"<!-- figures: written by make {command} -->", f"<!-- {end} -->"
    place = re.compile(f"(?<={re.escape(before)}\n).*?(?={re.escape(after)})", re.DOTALL)
    text = file.read_text("utf-8")
    if not place.search(text):
        raise Failure(f"{file} lacks the line {before} or {after}")
    figures = "\n" + "\n\n".join([f"{machine}.", *(table.markdown() for table in tables)]) + "\n\n"
    file.write_text(place.sub(lambda _: figures, text), "utf-8")
