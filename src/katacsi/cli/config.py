"""`katacsi config`: is this configuration good, and what may it say?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from katacsi import __version__, app, settings
from katacsi.cli import schema as schemas
from katacsi.cli.options import config_option
from katacsi.cli.output import Output, output_option, print_json, print_table
from katacsi.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path


@click.group()
def config() -> None:
    """Check a configuration, or print its schema."""


@config.command()
@config_option
@output_option()
def check(config: Path, output: Output) -> None:
    """Say whether `katacsi serve` would take a configuration.

    Reads the file with the KATACSI_* environment on top of it, and asks each pool's backend. Nothing is
    opened, so a folder that is missing shows only when the driver starts. A configuration that cannot be
    used: exit code 2, and a line on stderr for each key that is wrong.
    """
    loaded = settings.load(config)
    pools = app.workflows_of(loaded, "check", Metrics.create(__version__)).context.pools
    found = [{"pool": pool.name, "backend": pool.backend_name, "scope": pool.scope.value} for pool in pools]
    if output == "json":
        print_json({"config": str(config), "driver_name": loaded.driver_name, "pools": found})
        return
    click.echo(f"{config}: can be used; driver {loaded.driver_name}")
    print_table(
        ("POOL", "BACKEND", "SCOPE"), [tuple(pool.values()) for pool in found], empty="There is no pool."
    )


@config.command()
@output_option(default="json")
def schema(output: Output) -> None:
    """Print the JSON Schema of the configuration.

    It has every key with its meaning, unit and default; each pool is one of the backends installed here. As
    a table it is a list of the keys.
    """
    composed = schemas.compose()
    if output == "json":
        print_json(composed)
        return
    rows = [
        (key, _default(said, required=required), _meaning(said))
        for key, said, required in schemas.keys(composed)
    ]
    print_table(("KEY", "DEFAULT", "MEANING"), rows, empty="")


def _default(said: dict[str, Any], *, required: bool) -> str:
    if "const" in said:
        return str(said["const"])
    if required:
        return "(required)"
    default = said.get("default")
    return "" if default is None else default if isinstance(default, str) else json.dumps(default)


def _meaning(said: dict[str, Any]) -> str:
    legal = said.get("enum", ())
    text = str(said.get("description", ""))
    return f"{text} One of {', '.join(map(str, legal))}." if legal else text
