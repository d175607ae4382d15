"""`katacsi serve`: the driver itself. What is imported here is what every node process carries."""

from __future__ import annotations

from pathlib import Path

import click

from katacsi import app, settings
from katacsi.backends.api import Role
from katacsi.cli.options import config_option


@click.command()
@config_option
@click.option(
    "--endpoint",
    required=True,
    envvar="CSI_ENDPOINT",
    show_envvar=True,
    metavar="unix:///PATH",
    help="The socket to listen on. A stale one is replaced.",
)
@click.option(
    "--node-id",
    required=True,
    envvar="NODE_ID",
    show_envvar=True,
    metavar="NAME",
    help="This node's name, as Kubernetes has it; where that has more than 63 characters, another one.",
)
@click.option(
    "--mode",
    type=click.Choice([role.value for role in Role]),
    default=Role.ALL.value,
    show_default=True,
    help="Which services to serve besides Identity.",
)
def serve(config: Path, endpoint: str, node_id: str, mode: str) -> None:
    """Serve CSI on a unix socket until SIGTERM.

    SIGTERM and SIGINT let running calls finish, answer new ones with UNAVAILABLE, and end with exit code 0.
    Volumes, mounts and records stay as they are: the next start goes on with them. Every setting of the
    configuration can be overridden by the environment: KATACSI_LOG__LEVEL=debug sets log.level.
    """
    loaded = settings.load(config)
    app.run(loaded, socket=app.socket_of(endpoint, Path.cwd()), node_id=node_id, role=Role(mode))
