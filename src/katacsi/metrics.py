"""What katacsi counts for Prometheus."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from katacsi.standins import anything, module, standing_in

# It brings a web server with all entities of HTML, and a client that pushes: 1.2 MiB of every node, whose
# pages `httpserver` serves.
with standing_in(
    (
        anything("urllib.request"),
        module("http.server", "BaseHTTPRequestHandler"),
        module("wsgiref.simple_server", "WSGIRequestHandler", "WSGIServer", "make_server"),
    )
):
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Gauge,
        Histogram,
        Info,
        ProcessCollector,
        disable_created_metrics,
    )

if TYPE_CHECKING:
    from collections.abc import Callable

#: A call that only looks takes milliseconds; one that makes or checks a filesystem takes minutes.
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)


def _made(kind: Callable[..., object], name: str, words: str, *labels: str, **options: object) -> Any:  # noqa: ANN401  # as `field`
    """Declare a metric; labels are in the order in which `labels()` takes them."""
    return field(metadata={"make": partial(kind, f"katacsi_{name}", words, labels, **options)})


def _seconds(name: str, words: str, *labels: str) -> Any:  # noqa: ANN401  # as `field`
    return _made(Histogram, name, words, *labels, buckets=_SECONDS)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What every process of katacsi counts."""

    registry: CollectorRegistry
    kube_seconds: Histogram = _seconds(
        "kube_request_duration_seconds",
        "How long the Kubernetes API took to answer, by verb and outcome.",
        "verb",
        "outcome",
    )

    @classmethod
    def create(cls, version: str = "") -> Self:
        """Make all metrics in a registry of their own; `version` is the driver's."""
        # A timestamp beside every series doubles the page, and nobody asks for it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("katacsi_build", "The driver that runs here.", registry=registry).info(
            {"version": version, "python": platform.python_version()}
        )
        every = {each.name: each.metadata["make"](registry=registry) for each in fields(cls) if each.metadata}
        return cls(registry=registry, **every)


@dataclass(frozen=True, slots=True)
class Metrics(_Counted):
    """The metrics of a driver."""

    rpc_seconds: Histogram = _seconds(
        "rpc_duration_seconds", "How long CSI calls took, by method and gRPC status code.", "method", "code"
    )
    rpcs_in_flight: Gauge = _made(Gauge, "rpcs_in_flight", "CSI calls that have not been answered.")
    command_seconds: Histogram = _seconds(
        "host_command_duration_seconds",
        "How long host tools (mkfs, blkid, lvm) ran, by tool and outcome.",
        "tool",
        "outcome",
    )
    shim_seconds: Histogram = _seconds(
        "shim_request_duration_seconds",
        "How long Kata's shims took to answer about a volume, by runtime and outcome.",
        "runtime",
        "outcome",
    )
    pending_refusals: Counter = _made(
        Counter,
        "pending_refusals",
        "CSI calls refused because another one works on the same volume, by method.",
        "method",
    )
    formats: Counter = _made(Counter, "formats", "Filesystems made, by type.", "filesystem")
    published_volumes: Gauge = _made(
        Gauge,
        "published_volumes",
        "Volumes published on this node, by mode; direct ones have a record for Kata.",
        "mode",
    )
    pool_usable: Gauge = _made(Gauge, "pool_usable", "1 if a pool's storage can be used, else 0.", "pool")
    pool_available_bytes: Gauge = _made(
        Gauge, "pool_available_bytes", "Room for new volumes in a pool.", "pool"
    )
    orphaned_volumes: Gauge = _made(
        Gauge,
        "orphaned_volumes",
        "Volumes on this node to which no PersistentVolume of the cluster leads, as of the last look.",
        "pool",
    )
    pending_growths: Gauge = _made(
        Gauge,
        "pending_growths",
        "Volumes that have grown and whose guest sees it after the pod's next start.",
    )


@dataclass(frozen=True, slots=True)
class NodeWatchMetrics(_Counted):
    """The metrics of `katacsi watch-nodes`."""

    nodes_gone: Gauge = _made(
        Gauge, "nodes_gone", "Nodes that have volumes by the API and do not exist, since the grace period."
    )
    volumes_of_gone_nodes: Gauge = _made(
        Gauge,
        "volumes_of_gone_nodes",
        "PersistentVolumes of those nodes, by their phase; each waits for a person, or for its release.",
        "phase",
    )
    released: Counter = _made(
        Counter, "released_objects", "Objects of gone nodes that were deleted, by kind.", "kind"
    )
    failed_looks: Counter = _made(
        Counter, "node_watch_failures", "Looks at the cluster's nodes that did not come to their end."
    )
    last_look: Gauge = _made(
        Gauge,
        "node_watch_last_success_timestamp_seconds",
        "When the cluster's nodes were last looked at, in seconds since 1970.",
    )
