"""A cluster that answers from dicts, for workflows that are served in the test's process."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

from katacsi.errors import Precondition, Unavailable
from katacsi.kube.objects import CLAIM, POD, Claim, ObjectRef, Pod
from katacsi.volumes import claims
from katacsi.volumes.cluster import Cluster
from katacsi.volumes.publish import pods
from katacsi.volumes.workflows import Workflows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.node import Node


class StandIn:
    """Stands where `katacsi.kube.cluster.KubeCluster` stands; notes what it is asked and told.

    Attributes:
        down: whether the API server can be asked.
        asked: the questions so far, by name.
        told: the Events so far.
    """

    def __init__(self) -> None:
        self.down = False
        self.asked: list[str] = []
        self.told: list[tuple[ObjectRef, str, str, str]] = []
        self.claims: dict[str, Claim] = {}
        self.pods: dict[str, Pod] = {}
        self.handlers: dict[str, str] = {"kata": "kata-qemu", "plain": "runc"}
        self.bound: dict[str, str] = {}
        self.handles: set[str] = set()

    # -- what a test puts into it ----------------------------------------------------------------------

    def annotate(self, annotations: Mapping[str, str] | None = None, *, name: str = "data") -> dict[str, str]:
        """Have a claim with these annotations; give the parameters by which a volume is made for it."""
        self.claims[name] = Claim(ObjectRef(CLAIM, "default", name, f"uid-of-{name}"), annotations or {})
        return {claims.NAME: name, claims.NAMESPACE: "default"}

    def run(self, name: str = "web-0", **pod: object) -> dict[str, str]:
        """Have a pod like this; give the volume context by which the kubelet names it in a publish."""
        uid = f"uid-of-{name}"
        self.pods[name] = Pod(ObjectRef(POD, "default", name, uid), **pod)  # type: ignore[arg-type]  # the test's
        return {pods.NAME: name, pods.NAMESPACE: "default", pods.UID: uid}

    # -- what it answers -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Nothing to read."""

    async def close(self) -> None:
        """Nothing to let go."""

    async def claim(self, ref: ObjectRef) -> Claim:
        """Give a claim of the test."""
        self._ask("claim")
        return self.claims[ref.name]

    async def pod(self, ref: ObjectRef) -> Pod:
        """Give a pod of the test."""
        self._ask("pod")
        assert ref == self.pods[ref.name].ref
        return self.pods[ref.name]

    async def runtime_handler(self, pod: Pod) -> str:
        """Give the handler of a RuntimeClass of the test."""
        self._ask("runtime_handler")
        if pod.runtime_class not in self.handlers:
            raise Precondition(f"no RuntimeClass {pod.runtime_class}")
        return self.handlers[pod.runtime_class]

    async def claim_of(self, persistent_volume: str) -> str:
        """Give the claim that the test bound a PersistentVolume to."""
        self._ask("claim_of")
        return self.bound[persistent_volume]

    async def without_persistent_volume(self, driver: str, volumes: Mapping[str, str]) -> frozenset[str]:
        """Say which have no handle that the test put into `handles`."""
        self._ask("without_persistent_volume")
        return frozenset(volumes) - self.handles

    def tell(self, about: ObjectRef, action: str, reason: str, note: str) -> None:
        """Note it."""
        self.told.append((about, action, reason, note))

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise Unavailable("the API server is away")


def put_into(node: Node, cluster: StandIn) -> StandIn:
    """Let the workflows that a node serves ask this cluster, until it is restarted."""
    context = dataclasses.replace(node.driver.context, cluster=cluster)
    node._running = Workflows.of(context)
    return cluster


def methods(cls: type) -> dict[str, inspect.Signature]:
    """Give the public methods of a class that a Cluster has, with how they are called."""
    wanted = [name for name, _ in inspect.getmembers(Cluster, inspect.isfunction) if name[0] != "_"]
    return {name: inspect.signature(getattr(cls, name)) for name in wanted}
