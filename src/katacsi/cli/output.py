"""Printing data: a table for people, JSON for programs.

On a terminal a table fits its width and folds long words, so that nothing is cut off. Elsewhere it is plain
text with one line for each row, for grep and awk.
"""

from __future__ import annotations

import json
import sys
from itertools import compress
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from click.decorators import FC
    from rich.console import Console

Output = Literal["table", "json"]

#: Wide enough for whatever a row holds.
_UNFOLDED = 100_000


def output_option(default: Output = "table") -> Callable[[FC], FC]:
    """Give a command the option `--output`."""
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json"]),
        default=default,
        show_default=True,
        help="How to print.",
    )


def print_json(data: object) -> None:
    """Print data for programs."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows for people; `empty` says so on stderr when there are none, as a script reads stdout.

    On a terminal, where room is short, a column without any entry is left out.
    """
    from rich.table import Table  # noqa: PLC0415  # only where a table is printed

    rows = list(rows)
    if not rows:
        if empty:
            click.echo(empty, err=True)
        return
    wanted = [not sys.stdout.isatty() or any(column) for column in zip(*rows, strict=True)]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in compress(headings, wanted):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in compress(row, wanted)))
    _print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print what is known of one object: a name and a value a line; what has no value is left out."""
    from rich.table import Table  # noqa: PLC0415  # only where a table is printed

    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(name, _text(value))
    _print(table)


def _text(cell: str) -> str:
    """Give what a terminal may be shown: names come from callers and files, and may hold control signs."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in cell)


def _print(table: object) -> None:
    console = _console()
    if console.is_terminal:
        console.print(table, highlight=False)
        return
    with console.capture() as capture:
        console.print(table, highlight=False)
    # rich pads each line to the width of the table.
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415  # only where a table is printed

    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        width=None if terminal else _UNFOLDED,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )
