"""Where the broken backends are kept, in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Mutant:
    """A backend with one bug.

    Attributes:
        bug: what it does wrong.
        tests: the tests of the kit that have to fail for it.
        backend: its class.
    """

    bug: str
    tests: tuple[str, ...]
    backend: type


MUTANTS: list[Mutant] = []


def mutant(bug: str, *tests: str) -> Callable[[type], type]:
    """Note a class as a backend with this bug."""

    def noted(backend: type) -> type:
        MUTANTS.append(Mutant(bug, tests, backend))
        return backend

    return noted
