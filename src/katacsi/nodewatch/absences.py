"""For how long nodes have been seen absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Absences:
    """Adds up, look by look, the time for which each node was absent.

    Only time between two looks that both found a node absent counts. While nobody could look, or this process
    was stopped, the node may have been there.

    Args:
        longest_s: what counts at most from one look to the next.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._absent_s: dict[str, float] = {}
        self._looked_at: float | None = None

    def saw(self, absent: Iterable[str], now: float) -> None:
        """Note a look that found exactly these nodes absent; `now` is of a clock that only goes forward."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, self._longest_s)
        self._absent_s = {node: self._absent_s.get(node, -passed) + passed for node in absent}
        self._looked_at = now

    def could_not_look(self) -> None:
        """Note that nobody knows; the time until the next look does not count."""
        self._looked_at = None

    def is_back(self, node: str) -> None:
        """Note that a node was found; if it goes again, it begins anew."""
        self._absent_s.pop(node, None)

    def of(self, node: str) -> float | None:
        """Give the seconds for which a node was absent; None: it was there."""
        return self._absent_s.get(node)
