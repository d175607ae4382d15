"""A release in the network, in the test's process: a controller and two nodes over one appliance."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from katacsi.app import workflows_of
from katacsi.backends import registry
from katacsi.backends.api import Role
from katacsi.errors import Precondition
from katacsi.metrics import Metrics
from katacsi.settings import parse
from katacsi.testing import leaks
from katacsi.volumes.requests import ControllerPublish
from support import node as local
from support.kit_appliance import NODES, Appliance

if TYPE_CHECKING:
    from pathlib import Path


class Reporting(Appliance):
    """An appliance that knows its nodes by an address of their own, and grows volumes."""

    async def node_facts(self):
        return {"iqn": f"iqn.2026-01.io.katacsi:{self.context.node_id}"}

    async def publish(self, volume_id, node, *, read_only):
        if node.facts.get("iqn") != f"iqn.2026-01.io.katacsi:{node.id}":
            raise Precondition(f"node {node.id}: reported {node.facts}, and no iqn of its own")
        return await super().publish(volume_id, node, read_only=read_only)


class Place(local.Node):
    """A node, or the controller, of the release."""

    def __init__(self, scratch: Path, appliance: Path, name: str, role: Role) -> None:
        scratch.mkdir()
        super().__init__(scratch)
        self.name, self.role = name, role
        self.settings |= {
            "pools": {
                "default": {
                    "backend": "appliance",
                    "disks": str(appliance),
                    "state": str(appliance / "state"),
                }
            },
            "node_directory": str(scratch / "node"),
        }

    async def start(self, **settings):
        self.settings |= settings
        parsed = parse(self.settings, where="test")
        self._running = workflows_of(parsed, self.name, Metrics.create(), role=self.role)
        await self._running.start()
        return self._running

    @property
    def pools(self):
        return []


class Volume(local.Volume):
    """A volume whose place can be changed."""

    def on(self, place: Place) -> Volume:
        other = Volume(place, self.name, direct=self.direct)
        other.id, other.context = self.id, self.context
        return other

    async def reached(self, controller: Place, **other) -> dict[str, str]:
        """Let its node reach it; give the publish context."""
        node_id = (await self.node.driver.node.info()).node_id
        request = ControllerPublish(self.id, node_id, self.capability(), volume_context=self.context, **other)
        return await controller.driver.fencing.publish(request)

    async def up_on(self, controller: Place) -> None:
        """Bring it to a pod on its node."""
        context = await self.reached(controller)
        await self.stage(publish_context=context)
        await self.publish(publish_context=context)


@contextlib.asynccontextmanager
async def serving(scratch, monkeypatch):
    """Serve a controller and two nodes below a folder."""
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda name: Reporting if name == "appliance" else real(name))
    appliance = scratch / "appliance"
    (appliance / "state").mkdir(parents=True)
    (appliance / "by-id").mkdir()
    places = [
        Place(scratch / "controller", appliance, "controller", Role.CONTROLLER),
        *(Place(scratch / name, appliance, name, Role.NODE) for name in NODES),
    ]
    async with contextlib.AsyncExitStack() as stack:
        for place in places:
            await place.start()
            stack.push_async_callback(place.stop)
            stack.callback(place.clear)
        stack.callback(lambda: leaks.undo(leaks.leaks_below(appliance)))
        yield places
