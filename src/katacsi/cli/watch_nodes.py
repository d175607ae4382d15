"""`katacsi watch-nodes`: the controller that notices nodes which are gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from katacsi import settings
from katacsi.cli.options import config_option
from katacsi.nodewatch import serving

if TYPE_CHECKING:
    from pathlib import Path


@click.command("watch-nodes")
@config_option
def watch_nodes(config: Path) -> None:
    """Notice nodes that are gone for good, until SIGTERM.

    When a Node does not exist any more, and PersistentVolumes of this driver
    are on it, an Event on each of them and on its claim says so after
    `watch_nodes.grace`, with what to do.

    With `watch_nodes.release: true` the PersistentVolumes that no claim has
    any more, whose reclaim policy is Delete, are deleted as objects, and so
    are the node's CSIStorageCapacity objects. Storage is never touched.

    It needs the Kubernetes API and no rights on a node. One is enough; two at
    once do no harm.
    """
    serving.run(settings.load(config))
