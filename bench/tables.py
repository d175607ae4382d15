"""How a benchmark's tables look, in a terminal and in a file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

#: Signs of a line where no terminal says how wide it is: enough for the widest table.
_WIDTH = 130


def console() -> Console:
    """Give what tables are printed on."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH)


def titled(title: str, *heads: str) -> Table:
    """Give an empty table with these columns of text; columns of figures are added to it."""
    return Table(*heads, title=title, title_justify="left")
