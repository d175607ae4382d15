"""Three nodes side by side: no room is given away twice, and none touches another's volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kube_chart import pod_of, token_of
from support.kube_http import ApiError, until
from support.kube_nodes import LABEL, make_node, remove_node
from support.kube_objects import claim, pod
from support.kube_release import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube_chart import Chart
    from support.kube_lab import Lab
    from support.kube_work import Work

NODES = ("node-a", "node-b", "node-c")
CLAIMS = 20
SIZE, SIZE_BYTES = "64Mi", 64 << 20
#: Room for seven on each node: for 21, and 20 come at once.
QUOTA = 7 * SIZE_BYTES


@pytest.fixture
def plugins(lab: Lab, work: Work, chart: Chart) -> Iterator[dict[str, Plugin]]:
    """Give the drivers of three nodes that have little room, each with its provisioner."""
    made = {}
    for name in NODES:
        make_node(lab, name)
        made[name] = Plugin(lab, chart, name, quota=str(QUOTA))
        made[name].start("csi-provisioner")
    yield made
    for name, plugin in made.items():
        plugin.end()
        remove_node(lab, name)


def test_twenty_claims_at_once_fit_without_overcommit(work: Work, plugins: dict[str, Plugin]):
    """Each claim gets a volume on the node that its pod was placed on; no node gives more than it has."""
    names = [f"crowd-{number}" for number in range(CLAIMS)]
    for name in names:
        work.make(claim(name, "host", SIZE), pod(name, name, nodeSelector={LABEL: "yes"}))

    def claimed() -> dict[str, str]:
        """Return the volume of each claim that is bound."""
        claims = work.api.list("PersistentVolumeClaim")
        bound = [each for each in claims if each.get("status", {}).get("phase") == "Bound"]
        return {each["metadata"]["name"]: each["spec"]["volumeName"] for each in bound}

    def scheduled() -> dict[str, str]:
        """Return the node of each pod that has one."""
        pods = work.api.list("Pod", "default")
        return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in pods}

    until("all claims are bound", lambda: set(names) <= set(claimed()), 240)
    until("all pods are placed", lambda: all(scheduled().values()))
    placed = {volume["metadata"]["name"]: _node(volume) for volume in work.api.list("PersistentVolume")}
    for node, plugin in plugins.items():
        here = {volume for volume, of in placed.items() if of == node}
        assert set(plugin.volumes()) == here, f"{node} has the volumes that its PersistentVolumes name"
        assert len(here) * SIZE_BYTES <= QUOTA, f"{node} has given away more than it has"
    where = claimed()
    assert scheduled() == {name: placed[where[name]] for name in names}

    # Nobody ends pods of nodes that are only objects.
    for name in names:
        work.api.delete("Pod", name, force=True)
    for name in names:
        work.delete("PersistentVolumeClaim", name)
    until("all volumes are gone", lambda: not any(plugin.volumes() for plugin in plugins.values()))
    for node, plugin in plugins.items():
        asked = {call["message"]["volume_id"] for call in plugin.calls() if _is_of(call, "DeleteVolume")}
        assert {_name(handle) for handle in asked} <= {volume for volume, of in placed.items() if of == node}


def test_the_account_of_a_node_reaches_no_volume_of_another(
    lab: Lab, work: Work, chart: Chart, plugins: dict[str, Plugin]
):
    """With the token of one node's pod the PersistentVolume of another node cannot be changed or deleted."""
    work.make(claim("mine", "host"), pod("mine", "mine", nodeSelector={LABEL: "yes"}))
    volume = work.bound("mine")
    owner = _node(volume)
    other = next(name for name in NODES if name != owner)
    stranger = lab.api_as(token_of(lab, chart, pod_of(lab, chart, other)))
    name = volume["metadata"]["name"]
    with pytest.raises(ApiError, match=other):
        stranger.delete("PersistentVolume", name)
    with pytest.raises(ApiError, match=other):
        stranger.patch("PersistentVolume", name, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    assert (work.api.get("PersistentVolume", name) or {})["status"]["phase"] == "Bound"
    work.api.delete("Pod", "mine", force=True)
    work.delete("PersistentVolumeClaim", "mine")
    until("the owner deletes it", lambda: work.api.get("PersistentVolume", name) is None)
    deleted = [call for call in plugins[other].calls() if _is_of(call, "DeleteVolume")]
    assert name not in {_name(call["message"]["volume_id"]) for call in deleted}


def _node(volume: dict) -> str:
    """Return the node that a PersistentVolume names."""
    term = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]
    return str(term["matchExpressions"][0]["values"][0])


def _is_of(call: dict, rpc: str) -> bool:
    return call["rpc"] == rpc and call["event"] == "asked"


def _name(handle: str) -> str:
    return handle.rpartition(":")[2]
