"""Options that several commands have."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from katacsi import settings

if TYPE_CHECKING:
    from collections.abc import Callable

_DEFAULT_ROOT: Path = settings.Settings.model_fields["direct_volume_root"].default

config_option = click.option(
    "--config",
    required=True,
    envvar="KATACSI_CONFIG",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file.",
)

host_root_option = click.option(
    "--host-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    metavar="DIR",
    help="Where the node's root folder is seen; in the driver's pod /host.",
)

volume_path_option = click.option(
    "--volume-path",
    required=True,
    metavar="PATH",
    help="Where the pod gets the volume: the source of its mount, which is CSI's target path.",
)


def in_root(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the records are, and the folder they mean."""

    @click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help="The folder of the records.")
    @click.option(
        "--config",
        envvar="KATACSI_CONFIG",
        show_envvar=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Take the folder from a configuration (direct_volume_root).",
    )
    @functools.wraps(command)
    def found(*, root: Path | None, config: Path | None, **options: Any) -> None:  # noqa: ANN401  # whatever else it has
        if root is None:
            root = settings.load(config).direct_volume_root if config else _DEFAULT_ROOT
        command(root.absolute(), **options)

    return found
