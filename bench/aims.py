"""What was promised beside what was measured: the first table of every report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tables import MET, MISSED, Table

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Aim:
    """A figure that was promised, and the one that was measured."""

    name: str
    promised: str
    measured: str
    met: bool


def aims_table(title: str, aims: Iterable[Aim]) -> Table:
    """Say of each aim whether it was met."""
    rows = [(aim.name, aim.promised, aim.measured, MET if aim.met else MISSED) for aim in aims]
    return Table(title, ("promised", "", "measured", ""), rows, text=4)
