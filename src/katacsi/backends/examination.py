"""A backend's own part of `katacsi doctor`: checks that its class gives, if it has any.

An optional part of the contract. What a pool can tell of itself doctor asks anyway: whether it opens, and how
much room it has. A check says what else may go wrong on a node (a missing module, a disk that may be
unmounted), before a pod meets it. For a backend whose pools have the settings `MySettings`::

    CHECKS = BackendChecks[MySettings]("Pools")

    @CHECKS.add("pool-my-disk", "the disk of a `mine` pool", Harm.DATA, "Why anybody should care.")
    async def disk(examination: Examination[MySettings]) -> AsyncIterator[Result]:
        for pool in examination.pools:
            yield ok(pool.subject, "is on a disk")

    class MyBackend:
        @classmethod
        def checks(cls) -> Sequence[BackendCheck]:
            return CHECKS.all

A check looks and changes nothing. It says something of each of the pools, of which there may be none, and
never says `ok` where it could not look.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import pydantic

from katacsi.findings import Check, Checks, Result, Unread

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.findings import Place

_ID: Final = re.compile(r"pool(-[a-z0-9]+)+")

S = TypeVar("S", bound=pydantic.BaseModel)


class Surroundings(Protocol):
    """What doctor knows of the node around the pools.

    Attributes:
        contained: the node's root lies below another folder, so katacsi runs in a container of its own.
        kernel_release: as `uname -r`.
        kernel_modules: what the kernel could load, and what is built in, by name with underscores.
    """

    @property
    def contained(self) -> bool: ...  # noqa: D102 -- see Attributes
    @property
    def kernel_release(self) -> str: ...  # noqa: D102
    @property
    def kernel_modules(self) -> frozenset[str] | Unread: ...  # noqa: D102

    def text(self, path: str) -> str | Unread | None:
        """Read a text file of the node; `None`: it is proven absent."""

    def place(self, path: Path) -> Place | Unread:
        """Look at a folder as katacsi has it, and whether it is the node's own."""


@dataclass(frozen=True, slots=True)
class ExaminedPool(Generic[S]):
    """A pool of the configuration.

    Attributes:
        name: as in the configuration.
        backend: the backend's name.
        settings: what it was told.
    """

    name: str
    backend: str
    settings: S

    @property
    def subject(self) -> str:
        """How a result names it."""
        return f"pool {self.name} ({self.backend})"


@dataclass(frozen=True, slots=True)
class Examination(Generic[S]):
    """What a backend's check is given: all pools of this backend, and the node they are on."""

    pools: tuple[ExaminedPool[S], ...]
    node: Surroundings


class BackendChecks(Checks[Callable[[Examination[S]], AsyncIterator[Result]]], Generic[S]):
    """A list of checks of one backend, in the order in which they are shown."""


#: A check of some backend.
BackendCheck: TypeAlias = Check[Callable[[Examination[Any]], AsyncIterator[Result]]]


@runtime_checkable
class Examined(Protocol):
    """A backend, as its entry point names it, that brings checks."""

    def checks(self) -> Sequence[BackendCheck]:
        """Give the checks; each has an id of its own, `pool-…`, that stays. Nothing is looked at yet."""


def wrong_with(checks: Sequence[object], taken: Collection[str] = ()) -> str:
    """Say what keeps checks from being shown, beside others whose ids are `taken`; empty: nothing does.

    Scripts go by an id, so no two checks may have the same.
    """
    known = [check for check in checks if isinstance(check, Check)]
    if len(known) < len(checks):
        return "its checks() gives something else than checks"
    names = [check.id for check in known]
    for name in names:
        if not _ID.fullmatch(name):
            return f"its check {name!r} is not named pool-…"
        if name in taken or names.count(name) > 1:
            return f"its check {name!r} has the name of another check"
    return ""
