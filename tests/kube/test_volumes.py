"""Claims become volumes: by the real scheduler, controllers and sidecars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from katacsi.testing import leaks
from support.kube_chart import DRIVER
from support.kube_http import size_bytes, until
from support.kube_objects import claim, from_claim, from_snapshot, pod, snapshot

if TYPE_CHECKING:
    from support.kube_work import Work


def test_a_claim_becomes_a_volume_of_its_size(work: Work):
    """A claim that a pod uses is bound to a volume with a loop device behind it, where the pod runs."""
    work.make(claim("one", "host"), pod("one", "one"))
    work.running("one")
    volume = work.bound("one")
    assert volume["spec"]["csi"]["driver"] == DRIVER
    terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["key"] == f"topology.{DRIVER}/node"
    assert terms[0]["matchExpressions"][0]["values"] == ["node-1"]
    (name,) = work.plugin.volumes()
    ((device, file),) = leaks.loops_below(work.plugin.pool).items()
    assert name in str(file)
    assert any(str(device) in line for line in work.lab.mounts())
    kib = int(work.lab.in_pod("one", "df -k /data | tail -1 | awk '{print $2}'"))
    assert 50 * 1024 < kib <= 64 * 1024


def test_what_the_class_says_reaches_the_volume(work: Work):
    """The parameter of a StorageClass is stored with the volume: a direct one gets Kata's record."""
    work.make(claim("direct", "direct"), pod("direct", "direct", runtime="kata"))
    work.running("direct")
    calls = [entry for entry in work.plugin.calls() if entry["rpc"] == "CreateVolume" and "message" in entry]
    asked = calls[-1]["message"]
    assert asked["parameters"]["katacsi.io/direct"] == "true"
    assert asked["parameters"]["csi.storage.k8s.io/pvc/name"] == "direct"


def test_what_is_kept_stays_until_an_administrator_lets_it_go(work: Work):
    """A class with Retain keeps the volume when its claim goes; with Delete it then goes."""
    work.make(claim("kept", "auto-retain"), pod("kept", "kept"))
    work.running("kept")
    name = work.bound("kept")["metadata"]["name"]
    work.delete("Pod", "kept")
    work.delete("PersistentVolumeClaim", "kept")

    def phase() -> str:
        return (work.api.get("PersistentVolume", name) or {})["status"]["phase"]

    until("the volume is released", lambda: phase() == "Released")
    assert work.plugin.images("reflink"), "its data is still there"
    work.api.patch("PersistentVolume", name, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    until("the volume is gone", lambda: work.api.get("PersistentVolume", name) is None)
    assert not work.plugin.images("reflink")


def test_the_room_of_each_class_is_told_to_the_scheduler(work: Work):
    """Each class has a CSIStorageCapacity that follows; what is larger than the room is not placed."""
    until("each class has one", lambda: {"host", "direct", "auto", "xfs"} <= set(_capacities(work)))
    before = until("the room is told", lambda: _capacities(work).get("host", 0))
    work.make(claim("room", "host", "1Gi"), pod("room", "room"))
    work.running("room")
    until("the room is less", lambda: _capacities(work)["host"] <= before - (1 << 30))
    work.make(claim("huge", "host", "10Ti"), pod("huge", "huge"))
    work.event("huge", "did not have enough free storage")
    assert len(work.plugin.volumes()) == 1


def _capacities(work: Work) -> dict[str, int]:
    """Return the room of each class in bytes, as its CSIStorageCapacity says."""
    return {
        each["storageClassName"]: size_bytes(each.get("maximumVolumeSize") or each["capacity"])
        for each in work.api.list("CSIStorageCapacity")
    }


@pytest.mark.parametrize("kind", ["snapshot", "claim"])
def test_a_copy_has_what_its_source_had(work: Work, kind: str):
    """A snapshot of a volume in use is restored, larger, and a claim is cloned: each has its bytes."""
    work.make(claim("origin", "auto"), pod("origin", "origin"))
    work.running("origin")
    work.lab.in_pod("origin", "echo before > /data/file; sync")
    if kind == "snapshot":
        work.make(snapshot("taken", "origin"))
        until("the snapshot is ready", lambda: _is_ready(work, "taken"))
        work.lab.in_pod("origin", "echo after > /data/file; sync")
        work.make(claim("copy", "auto", "96Mi", dataSource=from_snapshot("taken")), pod("copy", "copy"))
    else:
        work.make(claim("copy", "auto", dataSource=from_claim("origin")), pod("copy", "copy"))
    work.running("copy")
    assert work.lab.in_pod("copy", "cat /data/file") == "before"
    assert work.lab.in_pod("origin", "cat /data/file") == ("after" if kind == "snapshot" else "before")


def _is_ready(work: Work, name: str) -> bool:
    return bool((work.api.get("VolumeSnapshot", name) or {}).get("status", {}).get("readyToUse"))


def test_a_volume_grows_under_its_pod(work: Work):
    """A larger request is carried through by csi-resizer and the kubelet; the pod sees it, and goes on."""
    work.make(claim("grows", "xfs", "300Mi"), pod("grows", "grows"))
    work.running("grows")
    before = int(work.lab.in_pod("grows", "df -k /data | tail -1 | awk '{print $2}'"))
    work.grow("grows", "400Mi")
    until("the claim has its size", lambda: work.size("grows") == "400Mi")
    after = int(work.lab.in_pod("grows", "df -k /data | tail -1 | awk '{print $2}'"))
    assert after >= before + 90 * 1024, json.dumps(work.api.events("grows"))
