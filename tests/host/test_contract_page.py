"""docs/backend-contract.md says which method runs in which call: here the calls are made, and noted."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from katacsi.backends.loopfile.backend import LoopfileBackend
from katacsi.volumes.requests import ControllerPublish, GetCapacity, ListSnapshots
from support.network import Reporting, Volume

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backend-contract.md"

METHODS = [
    name
    for name, _ in inspect.getmembers(LoopfileBackend, inspect.iscoroutinefunction)
    if not name.startswith("_")
]


class Noting:
    """Notes which methods of a backend class are called from outside, in order, each once in a row."""

    def __init__(self, monkeypatch, backend, names) -> None:
        self.calls: list[str] = []
        self.rows: dict[str, list[str]] = {}
        for name in names:
            monkeypatch.setattr(backend, name, self.noted(name, getattr(backend, name)))

    def noted(self, name, real):
        async def noted(backend, *args, **named):
            if not self.calls or self.calls[-1] != name:
                self.calls.append(name)
            return await real(backend, *args, **named)

        return noted

    async def of(self, rpc, call):
        """Make a call, and remember under its name what it took."""
        self.calls.clear()
        answer = await call
        self.rows.setdefault(rpc, list(self.calls))
        return answer


def _shown(rows: dict[str, list[str]], processes: dict[str, str]) -> list[str]:
    return [
        f"| {rpc} | {processes[rpc]} | {', '.join(f'`{name}`' for name in methods) or 'none'} |"
        for rpc, methods in rows.items()
    ]


async def test_the_page_says_what_is_called(node, volume, monkeypatch, release):
    """Every RPC with the methods that it takes, for a pool on a node and for one in the network."""
    local = Noting(monkeypatch, LoopfileBackend, METHODS)
    await node.restart()
    one = volume(direct=True)
    driver = node.driver
    await local.of("CreateVolume", one.create())
    await local.of("NodeStageVolume", one.stage())
    await local.of("NodePublishVolume", one.publish())
    await local.of("NodeGetVolumeStats", one.stats())
    await local.of("NodeExpandVolume", one.expand(one.size * 2))
    await local.of("NodeUnpublishVolume", one.unpublish())
    await local.of("NodeUnstageVolume", one.unstage())
    snapshot = await local.of("CreateSnapshot", one.snapshot())
    await local.of("ListSnapshots", driver.snapshots.list(ListSnapshots()))
    await local.of("DeleteSnapshot", driver.snapshots.delete(str(snapshot.id)))
    await local.of("ControllerGetVolume", driver.provisioning.get(one.id))
    await local.of("ListVolumes", driver.provisioning.list("", 0))
    await local.of("GetCapacity", driver.provisioning.capacity(GetCapacity((one.capability(),))))
    await local.of("DeleteVolume", one.delete())

    far = Noting(monkeypatch, Reporting, ["create", "delete", "get", "find", "attach", "attached", "detach"])
    for name in ("publish", "unpublish", "node_facts", "compare_and_set_facts", "is_blank", "expand"):
        if hasattr(Reporting, name):
            monkeypatch.setattr(Reporting, name, far.noted(name, getattr(Reporting, name)))
    controller, place, _ = release
    other = Volume(controller, "far", direct=True)
    await other.create()
    here = other.on(place)
    await far.of("NodeGetInfo", place.driver.node.info())
    context = await here.reached(controller)
    node_id = (await place.driver.node.info()).node_id
    request = ControllerPublish(other.id, node_id, other.capability())
    await far.of("ControllerPublishVolume", controller.driver.fencing.publish(request))
    await here.stage(publish_context=context)
    await here.publish(publish_context=context)
    await here.down()
    await far.of("ControllerUnpublishVolume", controller.driver.fencing.unpublish(other.id, ""))
    await other.delete()

    node_calls = {rpc: "node" for rpc in (*local.rows, *far.rows) if rpc.startswith("Node")}
    processes = dict.fromkeys((*local.rows, *far.rows), "controller") | node_calls
    rows = ["| RPC | process | methods, in order |", "|---|---|---|"]
    rows += _shown(local.rows, processes) + _shown(far.rows, processes)
    before, rest = PAGE.read_text().split("<!-- calls:")
    head, rest = rest.split("-->\n", 1)
    shown, after = rest.split("<!-- end of calls -->")
    wanted = "\n".join(["", *rows, "", ""])
    if os.environ.get("KATACSI_WRITE"):
        PAGE.write_text(f"{before}<!-- calls:{head}-->\n{wanted}<!-- end of calls -->{after}")
    else:
        assert shown == wanted
