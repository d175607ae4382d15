"""A node for the checks of a backend, made of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from katacsi.findings import Place, Unread


@dataclass(frozen=True)
class Around:
    """As `katacsi.backends.examination.Surroundings`; files and folders by their paths."""

    contained: bool = False
    kernel_release: str = "6.1.0"
    kernel_modules: frozenset[str] | Unread = frozenset()
    texts: Mapping[str, str | Unread] = field(default_factory=dict)
    places: Mapping[str, Place | Unread] = field(default_factory=dict)

    def text(self, path: str) -> str | Unread | None:
        """Give the text, where there is one."""
        return self.texts.get(path)

    def place(self, path: Path) -> Place | Unread:
        """Give the folder."""
        return self.places[str(path)]


async def results(checks, check_id, examination):
    """Run one of a backend's checks; what fails or warns has to say what to do."""
    check = next(check for check in checks if check.id == check_id)
    found = [result async for result in check.judge(examination)]
    assert all(one.remedy for one in found if one.verdict.value in {"failure", "warning"})
    return found
