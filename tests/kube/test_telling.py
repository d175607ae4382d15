"""Whom a refusal reaches: Events of the driver's own, on the object that a person describes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from katacsi.backends.loopfile import layout
from katacsi.testing import leaks
from support.kube_chart import DRIVER
from support.kube_http import until
from support.kube_objects import claim, pod, snapshot

if TYPE_CHECKING:
    from support.kube_http import Object
    from support.kube_work import Work


def told(work: Work, kind: str, name: str, reason: str) -> Object:
    """Wait for an Event of the driver on an object, found as `kubectl describe` finds it, by its UID."""
    about = work.api.get(kind, name)
    assert about is not None

    def look() -> Object | None:
        for event in work.api.list("Event", "default"):
            if event["involvedObject"].get("uid") == about["metadata"]["uid"] and event["reason"] == reason:
                assert event["reportingComponent"] == DRIVER
                assert event["involvedObject"]["kind"] == kind
                return event
        return None

    found = until(f"{kind} {name} has an Event {reason}", look, 120)
    assert found is not None
    return found


def test_a_refused_snapshot_is_told_on_the_volume_snapshot(work: Work):
    """csi-snapshotter names it, and its API is that of snapshots."""
    work.make(claim("origin", "host"), pod("origin", "origin"))
    work.running("origin")
    wrong = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": {"name": "wrong"},
        "driver": DRIVER,
        "deletionPolicy": "Delete",
        "parameters": {"katacsi.io/sped": "fast"},
    }
    work.make(wrong, snapshot("wrong", "origin", "wrong"))
    event = told(work, "VolumeSnapshot", "wrong", "InvalidRequest")
    assert "katacsi.io/sped" in event["message"]
    assert event["involvedObject"]["apiVersion"] == "snapshot.storage.k8s.io/v1"


def test_a_refused_growth_is_told_on_the_pod(work: Work):
    """An xfs that a guest has written cannot grow: whoever describes its pod reads why, and what to do."""
    work.make(
        claim("grows", "xfs", "300Mi", annotations={"katacsi.io/direct": "true"}),
        pod("grows", "grows", runtime="kata"),
    )
    work.running("grows")
    work.grow("grows", "400Mi")
    event = told(work, "Pod", "grows", "NotPossible")
    assert "guest_filesystems: refuse" in event["message"]
    assert event["action"] == "NodeExpandVolume"


def test_a_volume_that_lost_its_data_is_told_on_its_claim(work: Work):
    """A filesystem that is gone is not made anew: the staging is refused, and the claim says so."""
    work.make(claim("lost", "host"), pod("first", "lost"))
    work.running("first")
    work.delete("Pod", "first")
    (volume,) = work.plugin.volumes()
    image = work.lab.path(work.plugin.pool / "volumes" / volume / layout.DISK)
    until("the node has let go of it", lambda: not _attached(work))
    size = image.stat().st_size
    os.truncate(image, 0)
    os.truncate(image, size)
    work.make(pod("second", "lost"))
    event = told(work, "PersistentVolumeClaim", "lost", "DataLossAlarm")
    assert event["action"] == "NodeStageVolume"


def _attached(work: Work) -> list[str]:
    """Return the loop devices of volumes, and not that of the pool with reflinks."""
    devices = leaks.loops_below(work.plugin.folder).items()
    return [str(device) for device, file in devices if file.name == layout.DISK]
