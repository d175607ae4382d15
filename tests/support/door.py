"""The door without the house behind it: real services over scripted workflows, in memory or on a socket."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpclib.testing import ChannelFor

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Features
from katacsi.csi.asking import let_backends_ask
from katacsi.csi.methods import METHODS, REDACTION
from katacsi.csi.services import services
from katacsi.metrics import Metrics
from katacsi.rpc.changes import Changes
from katacsi.rpc.interceptor import Interceptor
from katacsi.rpc.server import DrainingServer
from katacsi.volumes.expansion import Expansion
from katacsi.volumes.node import NodeIdentity
from katacsi.volumes.provisioning import Provisioning
from katacsi.volumes.publish.unpublishing import Unpublishing
from katacsi.volumes.publish.workflow import Publishing
from katacsi.volumes.snapshots import Snapshots
from katacsi.volumes.staging import Staging
from katacsi.volumes.usage import UsageReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from grpclib.client import Channel

EVERYTHING = Features(snapshots=True, clones=True, expand=True, atomic_copies=True)

_REAL = {
    "provisioning": Provisioning,
    "snapshots": Snapshots,
    "staging": Staging,
    "publishing": Publishing,
    "unpublishing": Unpublishing,
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
    changes: Changes
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
    """Serve the workflows in memory; options are those of `katacsi.csi.services.services`, and `refused`."""
    workflows, changes, metrics = workflows or ScriptedWorkflows(), Changes(), Metrics.create()
    refused = options.pop("refused", None)
    channel_for = ChannelFor(_services(workflows, changes, options))
    async with channel_for as channel:
        interceptor = Interceptor(metrics, METHODS, REDACTION, received=let_backends_ask, refused=refused)
        interceptor.listen_to(channel_for._server)
        yield Door(
            workflows,
            changes,
            metrics,
            channel,
            csi.IdentityStub(channel),
            csi.ControllerStub(channel),
            csi.NodeStub(channel),
        )


@dataclass
class Served:
    """The driver's server on a socket."""

    server: DrainingServer
    workflows: ScriptedWorkflows
    changes: Changes
    metrics: Metrics
    path: Path

    def hold(self, workflow: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Make a workflow wait; give the events that tell it began and let it end."""
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def held(*_: Any) -> None:
            begun.set()
            await may_end.wait()

        self.workflows.answers[workflow] = held
        return begun, may_end


@asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncIterator[Served]:
    """Serve scripted workflows on a socket; options are those of `katacsi.csi.services.services`."""
    workflows, changes, metrics = ScriptedWorkflows(), Changes(), Metrics.create()
    server = DrainingServer(
        _services(workflows, changes, options),
        interceptor=Interceptor(metrics, METHODS, REDACTION, received=let_backends_ask),
        changes=changes,
    )
    await server.listen(path)
    try:
        yield Served(server, workflows, changes, metrics, path)
    finally:
        if server._server.is_serving():
            await server.drain(0.1)


def _services(workflows: ScriptedWorkflows, changes: Changes, options: dict[str, Any]) -> list[Any]:
    defaults = {"driver_name": "local.katacsi.io", "version": "1.2.3"}
    return services(workflows, changes, **defaults | options)
