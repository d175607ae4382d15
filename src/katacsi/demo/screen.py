"""What a person sees of the demo: a table that grows by a row for each call, or plain lines.

On a terminal the row that is at work is drawn live below the rows that are done; those scroll away like
everything a program prints, so a table longer than the terminal can be read from its beginning.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

_HEADINGS = ("WHO", "CALL", "MS", "WHAT IT CHANGED HERE")
_WHO = 7
_WHAT = 19  # the longest name of a call, NodeUnpublishVolume
_MS = 7
#: Where lines are folded that no terminal folds.
_CHANGED = 74
_NO_CHANGE = "-"


@dataclass(frozen=True)
class Row:
    """One thing that was done: by whom, what, in which time, and what was seen of it.

    `refused` is set where the answer was an error.
    """

    who: str
    what: str
    ms: float
    seen: Sequence[str]
    refused: bool = False


class Screen(Protocol):
    """Shows the demo; used with `with`."""

    def __enter__(self) -> Self:
        """Begin to draw."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""

    def head(self) -> None:
        """Say what the columns are."""

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""

    def working(self, who: str, what: str) -> contextlib.AbstractContextManager[None]:
        """Show that something is being done."""

    def row(self, row: Row) -> None:
        """Show what was done."""

    def say(self, text: str) -> None:
        """Show a line of text."""


def screen_of(*, plain: bool) -> Screen:
    """Give the screen that suits where the output goes."""
    if plain or not sys.stdout.isatty():
        return PlainScreen()
    return LiveScreen(Console(highlight=False, emoji=False))


class PlainScreen:
    """Lines of text, for files, pipes and logs."""

    def __enter__(self) -> Self:
        """Nothing is drawn that would have to begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was drawn that would have to go."""

    def head(self) -> None:
        """Print what the columns are."""
        click.echo(_line(*_HEADINGS))

    def chapter(self, title: str) -> None:
        """Print the title."""
        click.echo(f"\n{title}")

    @contextlib.contextmanager
    def working(self, who: str, what: str) -> Iterator[None]:
        """Print nothing: the row comes when it is done."""
        del who, what
        yield

    def row(self, row: Row) -> None:
        """Print a line, and one for each further change."""
        first, *others = [
            line for text in row.seen or (_NO_CHANGE,) for line in textwrap.wrap(text, _CHANGED)
        ]
        click.echo(_line(row.who, row.what, f"{row.ms:.1f}", first))
        for other in others:
            click.echo(_line("", "", "", other))

    def say(self, text: str) -> None:
        """Print the text."""
        click.echo(text)


def _line(who: str, what: str, ms: str, changed: str) -> str:
    return f"{who:<{_WHO}} {what:<{_WHAT}} {ms:>{_MS}}  {changed}"


class LiveScreen:
    """Colours, and a spinner at the row that is at work."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, refresh_per_second=12)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        self._live.update("")
        self._live.stop()

    def head(self) -> None:
        """Print what the columns are."""
        who, what, ms, changed = (Text(heading, "bold") for heading in _HEADINGS)
        self._console.print(_grid(who, what, ms, changed))

    def chapter(self, title: str) -> None:
        """Print the title."""
        self._console.print(Text(f"\n{title}", "bold cyan"))

    @contextlib.contextmanager
    def working(self, who: str, what: str) -> Iterator[None]:
        """Draw the row with the time running."""
        self._live.update(_Working(who, what))
        try:
            yield
        finally:
            self._live.update("")

    def row(self, row: Row) -> None:
        """Print the row for good."""
        seen = Text("\n".join(row.seen)) if row.seen else Text(_NO_CHANGE, "dim")
        self._console.print(
            _grid(
                Text(row.who, "magenta" if row.who == "guest" else ""),
                Text(row.what, "yellow" if row.refused else "green"),
                Text(f"{row.ms:.1f}"),
                seen,
            )
        )

    def say(self, text: str) -> None:
        """Print the text; the terminal folds it, so that it can be copied."""
        self._console.print(Text(text), soft_wrap=True)


class _Working:
    """The row at work; drawn again and again, with the time so far."""

    def __init__(self, who: str, what: str) -> None:
        self._who = who
        self._what = what
        self._since = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> Table:
        ms = (time.monotonic() - self._since) * 1000
        return _grid(Text(self._who), Text(self._what), Text(f"{ms:.0f}"), self._spinner)


def _grid(who: Text, what: Text, ms: Text, changed: Text | Spinner) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=_WHO, no_wrap=True)
    grid.add_column(width=_WHAT, no_wrap=True)
    grid.add_column(width=_MS, no_wrap=True, justify="right")
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(who, what, ms, changed)
    return grid
