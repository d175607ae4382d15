"""The node loses its power and comes back: what was on disks is there, /run is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.kube_http import until
from support.kube_objects import claim, pod
from support.kube_release import start_snapshot_controller

if TYPE_CHECKING:
    from support.kube_work import Work


def test_pods_come_back_after_a_reboot(work: Work):
    """A host mount has its data, a direct volume a record of its new device; both end as always."""
    work.make(claim("plain", "host"), pod("plain", "plain"))
    work.make(claim("guest", "direct"), pod("guest", "guest", runtime="kata"))
    work.running("plain", "guest")
    work.lab.in_pod("plain", "echo survived > /data/file; sync")
    before = work.restarts("plain", "guest")
    work.lab.down()
    work.lab.up()
    work.plugin.start()
    start_snapshot_controller(work.lab)

    def started_again() -> bool:
        # Until the kubelet has looked, their status is of before.
        return all(now > then for now, then in zip(work.restarts("plain", "guest"), before, strict=True))

    until("the containers were started again", started_again, 180)
    work.running("plain", "guest")
    assert work.lab.in_pod("plain", "cat /data/file") == "survived"
    assert work.record("guest", "guest") is not None
    assert len(work.mounts_of("guest", "guest")) == 1
