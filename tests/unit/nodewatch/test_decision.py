"""What becomes of a volume whose node may be gone: a table of facts."""

from __future__ import annotations

import pytest

from katacsi.kube.volumes import PersistentVolume, StorageCapacity
from katacsi.nodewatch.decision import Rules, Verdict
from support import stranded

KEEP, WAIT, TELL, RELEASE = Verdict.KEEP, Verdict.WAIT, Verdict.TELL, Verdict.RELEASE
GONE, WITHIN = 600.0, 599.9


def rules(*, release: bool) -> Rules:
    return Rules(stranded.DRIVER, stranded.KEY, grace_s=600, release=release)


def several_ways(*affinities):
    return {
        "required": {
            "nodeSelectorTerms": [
                term for each in affinities for term in each["required"]["nodeSelectorTerms"]
            ]
        }
    }


@pytest.mark.parametrize(
    ("facts", "absent_s", "told", "released"),
    [
        pytest.param({}, None, KEEP, KEEP, id="its node is there, or could not be asked for"),
        pytest.param({}, 0.0, WAIT, WAIT, id="its node was not there just now"),
        pytest.param({}, WITHIN, WAIT, WAIT, id="its node may come back"),
        pytest.param({}, GONE, TELL, RELEASE, id="released, to be deleted"),
        pytest.param({"phase": "Failed"}, GONE, TELL, RELEASE, id="its deletion failed"),
        pytest.param({"phase": "Bound"}, GONE, TELL, TELL, id="a claim has it"),
        pytest.param({"phase": "Available"}, GONE, TELL, TELL, id="no claim had it"),
        pytest.param({"phase": ""}, GONE, TELL, TELL, id="just made"),
        pytest.param({"reclaim": "Retain"}, GONE, TELL, TELL, id="to be retained"),
        pytest.param({"reclaim": ""}, GONE, TELL, TELL, id="nobody said what becomes of it"),
        pytest.param({"provisioner": ""}, GONE, TELL, TELL, id="a person wrote it"),
        pytest.param({"provisioner": "other.io"}, GONE, TELL, TELL, id="another provisioner made it"),
        pytest.param({"claimRef": None}, GONE, TELL, TELL, id="it has no claim, whatever it says"),
        pytest.param({"driver": "other.io"}, GONE, KEEP, KEEP, id="another driver's"),
        pytest.param({"csi": None}, GONE, KEEP, KEEP, id="no CSI volume"),
        pytest.param({"nodeAffinity": None}, GONE, KEEP, KEEP, id="not on one node"),
        pytest.param(
            {"nodeAffinity": stranded.affinity("node-1", key="topology.other.io/node")},
            GONE,
            KEEP,
            KEEP,
            id="its place is said in another topology",
        ),
        pytest.param(
            {"nodeAffinity": stranded.affinity("node-1", "node-2")}, GONE, KEEP, KEEP, id="on two nodes"
        ),
        pytest.param(
            {"nodeAffinity": several_ways(stranded.affinity("node-1"), stranded.affinity("node-2"))},
            GONE,
            KEEP,
            KEEP,
            id="two ways to it, over two nodes",
        ),
        pytest.param(
            {"nodeAffinity": several_ways(stranded.affinity("node-1"), stranded.affinity("a", key="zone"))},
            GONE,
            KEEP,
            KEEP,
            id="a second way to it over any node of a zone",
        ),
        pytest.param(
            {"nodeAffinity": several_ways(stranded.affinity("node-1"), stranded.affinity("node-1"))},
            GONE,
            TELL,
            RELEASE,
            id="two ways to it, over the same node",
        ),
    ],
)
def test_what_becomes_of_a_volume(facts, absent_s, told, released):
    """Only what its owner gave up, and nobody else can delete, is released, and only where that is wanted."""
    volume = PersistentVolume.of(stranded.volume(**facts))
    assert rules(release=False).verdict(volume, absent_s) is told
    assert rules(release=True).verdict(volume, absent_s) is released


def test_an_exclusion_is_no_place():
    """A volume that is anywhere but on a node is not on that node."""
    raw = stranded.volume()
    raw["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["operator"] = (
        "NotIn"
    )
    assert rules(release=True).verdict(PersistentVolume.of(raw), GONE) is KEEP


@pytest.mark.parametrize(
    ("topology", "place"),
    [
        ({"matchLabels": {stranded.KEY: "node-1"}}, "node-1"),
        ({"matchLabels": {stranded.KEY: "node-1", "zone": "a"}}, ""),
        ({"matchLabels": {"zone": "a"}}, ""),
        ({"matchLabels": {stranded.KEY: "node-1"}, "matchExpressions": [{"key": "zone"}]}, ""),
        (None, ""),
    ],
)
def test_room_in_one_place_is_told_from_room_elsewhere(topology, place):
    """A capacity object belongs to a node only if that node is all that its topology consists of."""
    raw = stranded.capacity("c", "node-1", "katacsi") | {"nodeTopology": topology}
    assert StorageCapacity.of(raw).place(stranded.KEY) == place
