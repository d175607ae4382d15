"""`katacsi support-bundle`: one file with what a person far away needs to know of this node."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import click

from katacsi import logs
from katacsi.bundle.archive import bundle
from katacsi.cli.options import config_option, host_root_option
from katacsi.errors import HostError

if TYPE_CHECKING:
    from katacsi.bundle.archive import Bundle


@click.command("support-bundle")
@config_option
@host_root_option
@click.option(
    "--node-id",
    envvar="NODE_ID",
    show_envvar=True,
    default=lambda: platform.node() or "localhost",
    metavar="NAME",
    help="This node's name.  [default: the machine's]",
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
def support_bundle(config: Path, host_root: Path, node_id: str, file: Path | None) -> None:
    """Collect what is known of this driver and its node into one archive.

    FILE is new; `-` is stdout, for `kubectl exec`; without one it is named after the node and the time, in
    the current folder. In the archive are versions, the configuration without its secrets, doctor's findings,
    pools and volumes, marks, records, mounts, devices, the kernel's lines about them, and metrics. Not in it
    are secrets, what is on the volumes, and what is others'.

    Nothing is changed, and the driver may run or not. What cannot be found out is said in its place, and the
    exit code is 0.
    """
    logs.configure("error", "console")
    node_id = re.sub(r"[^A-Za-z0-9._-]", "_", node_id)
    made = asyncio.run(_make(config, node_id, host_root, file))
    for part in made.files:
        if part.problem:
            click.echo(f"{part.name}: could not be made: {part.problem}", err=True)
    if made.hung:
        # A thread of ours may wait for a disk for ever, and Python for the thread.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _make(config: Path, node_id: str, host_root: Path, file: Path | None) -> Bundle:
    made = await bundle(config, node_id=node_id, host_root=host_root.resolve())
    if file == Path("-"):
        click.echo(made.data, nl=False)
        return made
    path = file or Path(f"{made.name}.tar.gz")
    try:
        async with aiofiles.open(path, "xb", opener=_private) as written:
            await written.write(made.data)
    except OSError as error:
        raise HostError(f"{path}: cannot be written ({error.strerror}); name another FILE, or `-`") from error
    click.echo(f"{path}: {len(made.data)} bytes; look at it before you give it away")
    return made


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
