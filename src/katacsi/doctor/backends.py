"""The installed backends, and the checks that they bring of their own; see `katacsi.backends.examination`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from katacsi import settings
from katacsi.backends import examination, registry
from katacsi.backends.examination import Examination, Examined, ExaminedPool
from katacsi.doctor import hostfiles
from katacsi.errors import SettingsError
from katacsi.findings import Checks, Finding, Harm, note, ok, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from katacsi.backends.api import BackendFactory
    from katacsi.backends.examination import BackendCheck
    from katacsi.backends.registry import Installed
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Place, Result, Unread
    from katacsi.settings import Settings

BACKENDS: Final[Checks[Judge]] = Checks("Pools")

#: The names of doctor's own checks of pools.
_OWN: Final = ("pool-usable", "pool-room", "pool-backends")


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """A backend that is installed.

    Attributes:
        name: as in a pool's `backend`.
        distribution: the package that brings it.
        factory: what its entry point names; `None`: it cannot be used, and `problem` says why.
        checks: those that it brings.
        problem: what is wrong with it or its checks.
    """

    name: str
    distribution: str
    factory: BackendFactory | None = None
    checks: tuple[BackendCheck, ...] = ()
    problem: str = ""


def find() -> tuple[BackendFacts, ...]:
    """Load every installed backend, katacsi's own first; one that cannot be loaded hinders no other."""
    taken = set(_OWN)
    ours_first = sorted(registry.installed(), key=lambda backend: backend.distribution != "katacsi")
    return tuple(_loaded(backend, taken) for backend in ours_first)


def _loaded(backend: Installed, taken: set[str]) -> BackendFacts:
    name, distribution = backend.name, backend.distribution
    try:
        factory = registry.load(name)
    except SettingsError as error:
        return BackendFacts(name, distribution, problem=error.message)
    if not isinstance(factory, Examined):
        return BackendFacts(name, distribution, factory)
    try:
        checks = tuple(factory.checks())
        problem = examination.wrong_with(checks, taken)
    except Exception as error:  # noqa: BLE001 -- whatever a foreign package raises
        checks, problem = (), f"its checks() failed: {error!r}"
    if problem:
        return BackendFacts(name, distribution, factory, problem=problem)
    taken.update(check.id for check in checks)
    return BackendFacts(name, distribution, factory, checks)


@BACKENDS.add(
    "pool-backends",
    "the installed backends",
    Harm.NONE,
    "A backend that cannot be imported serves no pool. One whose checks cannot be used leaves its part of "
    "the node unexamined.",
)
def backends(node: Node) -> Iterator[Result]:
    """Say which are installed, and what is wrong with one."""
    for one in node.backends:
        subject, remedy = f"backend {one.name}", f"repair or uninstall {one.distribution}"
        if one.factory is None:
            yield note(subject, one.problem, remedy)
        elif one.problem:
            yield unknown(subject, one.problem, remedy)
        else:
            yield ok(subject, f"from {one.distribution}")


# -- their own checks ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeAround:
    """What a backend's checks may ask of the node (`Surroundings`)."""

    files: HostFiles
    contained: bool
    kernel_release: str
    kernel_modules: frozenset[str] | Unread

    def text(self, path: str) -> str | Unread | None:
        """Read a text file of the node; `None`: it is proven absent."""
        return self.files.text(path)

    def place(self, path: Path) -> Place | Unread:
        """Look at a folder as katacsi has it, and whether it is the node's own."""
        return hostfiles.place(path, self.files, contained=self.contained)


async def examine(node: Node, files: HostFiles) -> list[Finding]:
    """Run the checks that backends bring; what one raises becomes a finding that says so."""
    around = NodeAround(files, node.contained, node.kernel.release, node.kernel.modules)
    found: list[Finding] = []
    for backend in node.backends:
        if backend.factory is None:
            continue
        pools = tuple(_pools(backend.name, backend.factory, node.settings))
        for check in backend.checks:
            found += [Finding(check, result) for result in await _judged(check, Examination(pools, around))]
    return found


async def _judged(check: BackendCheck, given: Examination[Any]) -> list[Result]:
    results = []
    try:
        async for result in check.judge(given):
            results.append(result)  # noqa: PERF401 -- those before a failure count as well
    except Exception as error:  # noqa: BLE001 -- whatever a foreign package raises
        results.append(unknown(check.id, f"the check itself failed: {error!r}", "report it to its author"))
    return results


def _pools(backend: str, factory: BackendFactory, loaded: Settings | None) -> Iterator[ExaminedPool[Any]]:
    """Give the pools of a backend; that their settings are right `pools.find` has proven."""
    for name, raw in (loaded.pools if loaded else {}).items():
        if raw["backend"] == backend:
            own = {key: value for key, value in raw.items() if key != "backend"}
            yield ExaminedPool(name, backend, settings.check(factory.Settings, own, where=f"pools.{name}"))
