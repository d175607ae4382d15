"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config",
    required=True,
    envvar="KATACSI_CONFIG",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file.",
)
