"""The composition root: in which order the rooms are opened and closed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
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
        self.fencing = None
        self.order: list[str] = []

    async def start(self) -> None:
        self.order.append("open")

    async def close(self) -> None:
        self.order.append("close")


async def test_pools_stay_open_for_a_change_that_outlives_the_drain(tmp_path, monkeypatch):
    """The grace is over and the call is cut off; its change goes on, and no pool is closed under it."""
    settings = Settings.model_validate({"timeouts": {"drain": 0.05}})
    workflows = Workflows(settings)
    monkeypatch.setattr(app, "workflows_of", lambda *_, **__: workflows)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def unpublish(*_):
        begun.set()
        await go_on.wait()
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
    assert await serving is False
    assert workflows.order == ["open"]
    go_on.set()


#: A driver whose backend hangs in a thread, as on a disk that does not answer.
HANGING = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_app import Workflows
from katacsi import app
from katacsi.host.offloop import off_loop
from katacsi.settings import Settings

async def unpublish(*_):
    print("begun", flush=True)
    await off_loop(threading.Event().wait)

settings = Settings.model_validate({"timeouts": {"drain": 0.2}})
workflows = Workflows(settings)
workflows.answers["unpublishing.unpublish"] = unpublish
app.workflows_of = lambda *_, **__: workflows
app.run(settings, socket=Path(sys.argv[1]), node_id="n1")
"""


async def test_the_process_ends_while_a_backend_hangs(tmp_path):
    """After the grace the process is gone, with exit code 0, whatever a thread of it still waits for."""
    program = [sys.executable, "-c", HANGING, str(tmp_path / "s"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  # at once
        try:
            async with Client(tmp_path / "s") as client:
                await client.wait_ready(30)
                request = csi.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t")
                call = asyncio.create_task(client.node.node_unpublish_volume(request))
                while b"begun" not in await asyncio.to_thread(process.stdout.readline):
                    pass
                process.send_signal(signal.SIGTERM)
                with pytest.raises(RpcError):
                    await call
            assert await asyncio.to_thread(process.wait, 30) == 0
        finally:
            process.kill()
