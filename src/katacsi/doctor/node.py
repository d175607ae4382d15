"""The picture of a node: everything that the checks may know, gathered before the first of them runs.

What could not be found out is an `Unread` with its reason, so that no check mistakes it for an absent thing.
Nothing is changed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.doctor import (
    backends,
    cluster,
    driver,
    hypervisors,
    kata,
    kernel,
    kubelet,
    pools,
    processes,
    records,
)
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.hypervisors import Hypervisors
from katacsi.doctor.kata import Kata
from katacsi.doctor.kernel import Kernel
from katacsi.doctor.kubelet import Kubelet
from katacsi.doctor.records import Records
from katacsi.findings import NOT_LOOKED, Result, Unread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.doctor.backends import BackendFacts
    from katacsi.doctor.cluster import ClusterFacts
    from katacsi.doctor.pools import PoolFacts
    from katacsi.settings import Settings

#: What a check of a node is: a pure function.
Judge = Callable[["Node"], Iterator[Result]]

#: The node's own root: then doctor runs on the node itself.
ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        contained: the node's files lie below another folder, so katacsi runs in a container of its own.
        kata: what there is of Kata.
        records: the root of the records.
        hypervisors: those that run.
        kubelet: the kubelet's folder.
        cluster: what the Kubernetes API says, where the driver asks it.
        kernel: what the kernel can do.
        user: the user's number of this process.
        capabilities: the bits of this process, as in `CapEff`.
        tools: those of the host's tools that are installed where katacsi runs.
        guest_paths: where guests are found: whether this process has the path, and whether the node does.
        settings: the configuration; `None`: none was given.
        pools: its pools.
        backends: those that are installed.
    """

    contained: bool = False
    kata: Kata = field(default_factory=Kata)
    records: Records = field(default_factory=Records)
    hypervisors: Hypervisors = field(default_factory=Hypervisors)
    kubelet: Kubelet = field(default_factory=Kubelet)
    cluster: ClusterFacts | Unread = NOT_LOOKED
    kernel: Kernel = field(default_factory=Kernel)
    user: int = 0
    capabilities: int | Unread = NOT_LOOKED
    tools: frozenset[str] = frozenset()
    guest_paths: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    settings: Settings | None = None
    pools: tuple[PoolFacts, ...] = ()
    backends: tuple[BackendFacts, ...] = ()


async def collect(
    settings: Settings | None, files: HostFiles, *, kata_configurations: Sequence[str] = ()
) -> Node:
    """Gather everything.

    Args:
        settings: the configuration, when there is one.
        files: the node's files.
        kata_configurations: configurations of Kata to judge besides those that handlers use, by the node's
            paths.

    Raises:
        SettingsError: the configuration's pools make no sense.
    """
    contained = files.root != ROOT
    running = processes.find(files)
    guests = hypervisors.find(files, running)
    return Node(
        contained=contained,
        kata=await kata.find(files, kata_configurations, running),
        records=await records.find(settings, files, contained=contained),
        hypervisors=guests,
        kubelet=kubelet.find(files, running, contained=contained),
        cluster=await cluster.find(settings.kube) if settings else NOT_LOOKED,
        kernel=kernel.find(files),
        user=driver.user(),
        capabilities=driver.capabilities(),
        tools=driver.installed_tools(),
        guest_paths=driver.guest_paths(files),
        settings=settings,
        pools=await pools.find(settings, with_devices=bool(guests.alone)) if settings else (),
        backends=backends.find(),
    )
