"""A node that is gone for good: the real API server, real provisioners, the rights that the chart gives."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import chart_goldens
from chart_goldens import Case
from support.chart import merged
from support.kube_chart import DRIVER, NAMESPACE
from support.kube_http import until
from support.kube_lab import TREE
from support.kube_nodes import KEY, make_node, remove_node
from support.kube_objects import claim
from support.kube_release import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube_chart import Chart
    from support.kube_http import Api, Object
    from support.kube_lab import Inside, Lab
    from support.kube_work import Work

NODE = "node-2"
ACCOUNT = "katacsi-watch-nodes"
SELECTED = {"volume.kubernetes.io/selected-node": NODE}


class Watch:
    """`katacsi watch-nodes` as the chart's account, in the cluster."""

    def __init__(self, lab: Lab, *, release: bool) -> None:
        values = merged(chart_goldens.LOCAL, {"watchNodes": {"enabled": True, "release": release}})
        for item in yaml.safe_load_all(chart_goldens.template(Case(values))):
            if item and item["metadata"]["name"] == ACCOUNT and item["kind"] != "Deployment":
                lab.api.apply(item)
        settings: dict[str, Any] = {
            "driver_name": DRIVER,
            "log": {"format": "json"},
            "kube": {
                "kubeconfig": str(lab.files.write_kubeconfig(ACCOUNT, lab.api.token_of(ACCOUNT, NAMESPACE)))
            },
            "watch_nodes": {"interval": 0.5, "grace": 2, "release": release, "namespace": NAMESPACE},
        }
        config = lab.files.folder / "watch-nodes.yaml"
        config.write_text(yaml.safe_dump(settings), "utf-8")
        program = (TREE / ".venv/bin/python", "-m", "katacsi", "watch-nodes", "--config", config)
        self.processes: list[Inside] = [lab.start(f"watch-nodes-{number}", *program) for number in (1, 2)]

    @property
    def log(self) -> str:
        """What both said."""
        return "\n".join(process.log.read_text("utf-8") for process in self.processes)

    def end(self) -> None:
        """Stop both; each ends well, and was permitted all that it asked for."""
        for process in self.processes:
            assert process.runs, process.tail()
            process.end(signal.SIGTERM)
        assert "does not permit" not in self.log


@pytest.fixture
def second(lab: Lab, work: Work, chart: Chart) -> Iterator[Plugin]:
    """A second node, without a kubelet, with a driver and its provisioner: all that makes volumes there."""
    make_node(lab, NODE)
    plugin = Plugin(lab, chart, NODE)
    plugin.start("csi-provisioner")
    yield plugin
    plugin.end()
    remove_node(lab, NODE)


def capacities(api: Api, node: str = NODE) -> list[str]:
    """Return the names of a node's capacity objects."""
    return [
        each["metadata"]["name"]
        for each in api.list("CSIStorageCapacity")
        if (each.get("nodeTopology") or {}).get("matchLabels") == {KEY: node}
    ]


def phase(api: Api, name: str) -> str:
    """Return the phase of a volume; `gone` where there is none."""
    found: Object | None = api.get("PersistentVolume", name)
    return found["status"]["phase"] if found else "gone"


def test_what_a_gone_node_leaves_is_told_and_released(lab: Lab, work: Work, second: Plugin):
    """By default it is told; with the operator's word what nobody can delete is released, and only that.

    Two watchers run at once. The data stays on the node's disk, and is there when the machine comes back.
    """
    for name in ("given-up", "in-use"):
        work.make(claim(name, "host", annotations=SELECTED))
    given_up, in_use = (work.bound(name)["metadata"]["name"] for name in ("given-up", "in-use"))
    until("the node tells its room", lambda: capacities(work.api))
    data = second.volumes()
    second.end()
    work.delete("PersistentVolumeClaim", "given-up")
    until("the volume is released by its claim", lambda: phase(work.api, given_up) == "Released")

    watch = Watch(lab, release=False)
    until("the watchers look", lambda: watch.log.count("watching nodes") == 2)
    work.api.delete("Node", NODE)
    assert "kubectl delete pv" in work.event(given_up, "NodeGone")
    assert f"PV {in_use} is on node {NODE}, which does not exist" in work.event("in-use", "NodeGone")
    work.event(in_use, "NodeGone")
    watch.end()
    assert (phase(work.api, given_up), phase(work.api, in_use)) == ("Released", "Bound")
    assert capacities(work.api)

    watch = Watch(lab, release=True)
    until("what was given up is gone", lambda: phase(work.api, given_up) == "gone")
    until("so is the node's room", lambda: not capacities(work.api))
    assert capacities(work.api, "node-1"), "the room of the other node stays"
    assert phase(work.api, in_use) == "Bound"
    work.delete("PersistentVolumeClaim", "in-use")
    until("what nobody claims any more follows", lambda: phase(work.api, in_use) == "gone")
    watch.end()
    assert second.volumes() == data, "the storage was not touched"
