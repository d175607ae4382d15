"""The composition root: in which order the rooms are opened and closed."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from katacsi import app
from katacsi.csi.client import Client, RpcError, csi
from katacsi.settings import Settings
from support.door import ScriptedWorkflows


class Workflows(ScriptedWorkflows):
    """Scripted ones that note when they are opened and closed."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.context = SimpleNamespace(settings=settings, cluster=None)
        self.order: list[str] = []

    async def start(self) -> None:
        self.order.append("open")

    async def close(self) -> None:
        self.order.append("close")


async def test_pools_stay_open_for_a_change_that_outlives_the_drain(tmp_path, monkeypatch):
    """The grace is over and the call is cut off; its change still ends before the pools are closed."""
    settings = Settings.model_validate({"timeouts": {"drain": 0.05}})
    workflows = Workflows(settings)
    monkeypatch.setattr(app, "workflows_of", lambda *_: workflows)
    begun = asyncio.Event()

    async def unpublish(*_):
        begun.set()
        await asyncio.sleep(0.3)
        workflows.order.append("changed")

    workflows.answers["unpublishing.unpublish"] = unpublish
    serving = asyncio.create_task(app.serve(settings, socket=tmp_path / "s", node_id="n1"))
    async with Client(tmp_path / "s") as client:
        await client.wait_ready(5)
        request = csi.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t")
        call = asyncio.create_task(client.node.node_unpublish_volume(request))
        await begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(RpcError):
            await call
    await serving
    assert workflows.order == ["open", "changed", "close"]
