"""Backends are found by the entry points of installed packages; ours are no different from anybody's."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, NamedTuple, cast

import pydantic

from katacsi.backends.api import ENTRY_POINT_GROUP, Scope
from katacsi.errors import SettingsError

if TYPE_CHECKING:
    from katacsi.backends.api import BackendFactory


class Installed(NamedTuple):
    """A backend that is installed."""

    name: str
    distribution: str
    version: str


def installed() -> list[Installed]:
    """List the backends that are installed, by name, without importing any."""
    return sorted(_describe(point) for point in entry_points(group=ENTRY_POINT_GROUP))


def load(name: str) -> BackendFactory:
    """Import a backend.

    Raises:
        SettingsError: none of this name is installed, several are, it cannot be imported, or it is none.
    """
    points = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not points:
        known = ", ".join(f"{entry.name} ({_source(entry)})" for entry in installed()) or "none at all"
        raise SettingsError(
            f"backend: {name!r} is not installed; installed are: {known}. Install the package that brings it "
            f"into the same environment (an entry point {name!r} in group {ENTRY_POINT_GROUP})"
        )
    if len({point.value for point in points}) > 1:
        sources = " and ".join(sorted(_source(_describe(point)) for point in points))
        raise SettingsError(f"backend: {name!r} is brought by {sources}; uninstall all but one")
    source = _source(_describe(points[0]))
    try:
        factory = points[0].load()
    except Exception as error:  # whatever a foreign package raises while it is imported
        raise SettingsError(
            f"backend: {name!r} of {source} cannot be imported: {error!r}; repair that package"
        ) from error
    if lacking := _lacking(factory):
        raise SettingsError(f"backend: {name!r} of {source} is no katacsi backend: {lacking}")
    return cast("BackendFactory", factory)


def _lacking(factory: object) -> str:
    """Say what keeps an object from being a `BackendFactory`."""
    settings = getattr(factory, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, pydantic.BaseModel)):
        return "its Settings is not a pydantic model"
    if settings.model_config.get("extra") != "forbid":
        return 'its Settings does not say extra="forbid", so mistyped settings would go unnoticed'
    if not isinstance(getattr(factory, "scope", None), Scope):
        return "its scope is not a katacsi.backends.api.Scope"
    if not hasattr(getattr(factory, "parameters", None), "items"):
        return "its parameters is not a mapping"
    return "" if callable(factory) else "it cannot be called"


def _describe(point: EntryPoint) -> Installed:
    distribution = point.dist
    return Installed(
        point.name,
        distribution.name if distribution else "an unnamed package",
        distribution.version if distribution else "",
    )


def _source(entry: Installed) -> str:
    return f"{entry.distribution} {entry.version}".rstrip()
