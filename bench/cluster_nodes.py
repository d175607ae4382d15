"""More nodes, without kubelets: each with its driver and its sidecars, which see what the others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.kube_nodes import make_node
from support.kube_release import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def add(first: Plugin, number: int, settings: Mapping[str, Any]) -> Plugin:
    """Bring a node into a node's cluster that no pod is sent to, and start what the release runs on it."""
    name = f"node-{number}"
    make_node(first.lab, name)
    first.lab.api.patch("Node", name, {"spec": {"unschedulable": True}})
    plugin = Plugin(first.lab, first.chart, name, settings=settings)
    plugin.start()
    return plugin
