"""What was promised beside what was measured: the first table of every report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table


@dataclass(frozen=True)
class Aim:
    """A figure that was promised, and the one that was measured."""

    name: str
    promised: str
    measured: str
    met: bool


def aims_table(title: str, aims: Iterable[Aim]) -> Table:
    """Say of each aim whether it was met."""
    table = tables.titled(title, "promised", "", "measured", "")
    for aim in aims:
        table.add_row(aim.name, aim.promised, aim.measured, "[green]met[/]" if aim.met else "[red]missed[/]")
    return table
