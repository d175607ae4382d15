"""How a benchmark's tables look: on a terminal, and in a page of the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Signs of a line where no terminal says how wide it is: enough for the widest table.
_WIDTH = 130
MET, MISSED = "met", "missed"
_STYLES = {MET: "green", MISSED: "red"}


@dataclass(frozen=True)
class Table:
    """A table before it is drawn.

    Attributes:
        text: how many of the first columns hold words; the others hold figures.
        section_by: the column at whose changes a line is drawn; none by default.
    """

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text: int = 1
    section_by: int | None = None

    def drawn(self) -> rich_table.Table:
        """Give it for a terminal."""
        drawn = rich_table.Table(title=self.title, title_justify="left")
        for number, head in enumerate(self.heads):
            drawn.add_column(head, justify="left" if number < self.text else "right")
        before = None
        for row in self.rows:
            if self.section_by is not None and before not in (None, row[self.section_by]):
                drawn.add_section()
            before = row[self.section_by] if self.section_by is not None else None
            drawn.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
        return drawn

    def markdown(self) -> str:
        """Give it for a page, its title above it."""
        lines = [f"**{self.title}**", "", _line(self.heads), "|---" * len(self.heads) + "|"]
        return "\n".join([*lines, *(_line(row) for row in self.rows)])


def show(tables: Iterable[Table], last: str) -> None:
    """Print tables, and a line below them."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for table in tables:
        console.print(table.drawn())
    console.print(last, soft_wrap=True)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Give the median of the rounds, with the least and the greatest of them where there are several."""
    text = f"{median(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(f"**{cell}**" if cell == MISSED else cell for cell in cells) + " |"
