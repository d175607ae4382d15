"""The driver's door without the house behind it: real services, an in-memory channel, scripted workflows."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpclib.testing import ChannelFor

from katacsi._gen.csi import v1 as csi
from katacsi.aio import Shielded
from katacsi.backends.api import Features
from katacsi.csi.methods import METHODS, REDACTION
from katacsi.csi.services import services
from katacsi.metrics import Metrics
from katacsi.rpc.interceptor import Interceptor
from katacsi.volumes.expansion import Expansion
from katacsi.volumes.node import NodeIdentity
from katacsi.volumes.provisioning import Provisioning
from katacsi.volumes.publish.workflow import Publishing
from katacsi.volumes.snapshots import Snapshots
from katacsi.volumes.staging import Staging
from katacsi.volumes.usage import UsageReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpclib.client import Channel

EVERYTHING = Features(snapshots=True, clones=True, expand=True, atomic_copies=True)

_REAL = {
    "provisioning": Provisioning,
    "snapshots": Snapshots,
    "staging": Staging,
    "publishing": Publishing,
    "expansion": Expansion,
    "usage": UsageReader,
    "node": NodeIdentity,
}


class ScriptedWorkflows:
    """Answers each call with what `answers` holds under `group.method`: a value, an error, or a coroutine
    function; notes each call. It takes only calls that the real class would take.
    """

    def __init__(self, features: Features = EVERYTHING) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.features = features
        self.shielded = Shielded()
        for name in _REAL:
            setattr(self, name, _Group(self, name))


class _Group:
    def __init__(self, script: ScriptedWorkflows, name: str) -> None:
        self._script = script
        self._name = name

    def __getattr__(self, method: str) -> Any:
        real = inspect.signature(getattr(_REAL[self._name], method))
        key = f"{self._name}.{method}"

        async def call(*arguments: Any) -> Any:
            real.bind(self, *arguments)
            self._script.calls.append((key, arguments))
            answer = self._script.answers.get(key)
            if inspect.iscoroutinefunction(answer):
                return await answer(*arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@dataclass
class Door:
    """What a test holds in its hand."""

    workflows: ScriptedWorkflows
    metrics: Metrics
    channel: Channel
    identity: csi.IdentityStub
    controller: csi.ControllerStub
    node: csi.NodeStub

    def counted(self, rpc: str, code: str) -> float:
        """How many answers of this kind the metrics have."""
        labels = {"method": rpc, "code": code}
        return self.metrics.registry.get_sample_value("katacsi_rpc_duration_seconds_count", labels) or 0


@asynccontextmanager
async def open_door(workflows: ScriptedWorkflows | None = None, **options: Any) -> AsyncIterator[Door]:
    """Serve the workflows in memory; options are those of `katacsi.csi.services.services`."""
    workflows = workflows or ScriptedWorkflows()
    metrics = Metrics.create()
    options = {"driver_name": "local.katacsi.io", "version": "1.2.3", "ready": lambda: True} | options
    channel_for = ChannelFor(services(workflows, **options))
    async with channel_for as channel:
        Interceptor(metrics, METHODS, REDACTION).listen_to(channel_for._server)
        yield Door(
            workflows,
            metrics,
            channel,
            csi.IdentityStub(channel),
            csi.ControllerStub(channel),
            csi.NodeStub(channel),
        )
