"""`katacsi backends`: what storage this installation can use, and what a StorageClass may say to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import click

from katacsi.backends import registry
from katacsi.cli.output import Output, output_option, print_json, print_table
from katacsi.errors import SettingsError


@dataclass(frozen=True, slots=True)
class _Backend:
    """What is said of a backend; one that cannot be imported has a problem in place of a scope."""

    name: str
    distribution: str
    version: str
    scope: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    problem: str = ""


@click.command()
@output_option()
def backends(output: Output) -> None:
    """List the storage backends that are installed.

    A backend is a Python package with an entry point in the group katacsi.backends. Its pool settings are in
    `katacsi config schema`; its StorageClass parameters are listed here.
    """
    found = [_look(entry) for entry in registry.installed()]
    if output == "json":
        print_json([asdict(backend) for backend in found])
    else:
        _print(found)
    broken = [backend for backend in found if backend.problem]
    for backend in broken:
        click.echo(f"Error: {backend.problem}", err=True)
    if broken:
        click.get_current_context().exit(1)


def _look(entry: registry.Installed) -> _Backend:
    try:
        factory = registry.load(entry.name)
    except SettingsError as error:
        return _Backend(*entry, problem=error.message)
    # Only the keys with a text: they come from foreign packages.
    parameters = {
        f"{entry.name}.katacsi.io/{key}": " ".join(str(text).split())
        for key, text in factory.parameters.items()
    }
    return _Backend(*entry, scope=factory.scope.value, parameters=parameters)


def _print(found: list[_Backend]) -> None:
    print_table(
        ("BACKEND", "SCOPE", "PACKAGE", "VERSION"),
        [(b.name, b.scope or "cannot be used", b.distribution, b.version) for b in found],
        empty="No backend is installed; install katacsi again, which brings loopfile.",
    )
    parameters = [item for backend in found for item in backend.parameters.items()]
    if parameters:
        click.echo()
        print_table(("STORAGECLASS PARAMETER", "MEANING"), parameters, empty="")
