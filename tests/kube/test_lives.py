"""What a node lives through while pods use volumes: crashes, restarts, growth in between."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.kube_http import until
from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from support.kube_work import Work


@pytest.fixture
def pods(work: Work) -> tuple[str, str]:
    """Give a pod with a host mount and one with a direct volume, both running."""
    work.make(claim("plain", "host"), pod("plain", "plain"))
    work.make(claim("guest", "direct"), pod("guest", "guest", runtime="kata"))
    work.running("plain", "guest")
    work.lab.in_pod("plain", "echo before > /data/file; sync")
    return "plain", "guest"


def test_pods_outlive_a_crash_of_the_driver(work: Work, pods: tuple[str, str]):
    """The driver is killed: pods go on with their data, and the next driver knows their volumes."""
    record = work.record("guest", "guest")
    work.plugin.crash()
    assert work.lab.in_pod("plain", "echo more >> /data/file; cat /data/file") == "before\nmore"
    work.plugin.start_driver()
    work.plugin.wait_registered()
    assert work.restarts(*pods) == [0, 0]
    assert work.record("guest", "guest") == record


def test_a_pod_that_ends_while_the_driver_is_down_is_cleaned_up_later(work: Work, pods: tuple[str, str]):
    """The kubelet cannot unpublish without the driver: it comes again when the driver is back."""
    work.plugin.crash()
    for name in pods:
        work.api.delete("Pod", name)
    until("their containers have ended", lambda: not _containers_run(work, *pods))
    work.plugin.start_driver()
    for name in pods:
        work.delete("Pod", name)


def _containers_run(work: Work, *pods: str) -> bool:
    for name in pods:
        status = (work.api.get("Pod", name) or {}).get("status", {})
        if any("running" in each["state"] for each in status.get("containerStatuses", [])):
            return True
    return False


def test_a_restarted_kubelet_finds_everything_as_it_was(work: Work, pods: tuple[str, str]):
    """It registers the driver anew, stages and publishes again, and no container is started again."""
    before = len(_asked(work, "NodePublishVolume"))
    work.lab.kill_kubelet()
    work.lab.start_kubelet()
    until("it published again", lambda: len(_asked(work, "NodePublishVolume")) >= before + 2)
    work.running(*pods)
    assert work.restarts(*pods) == [0, 0]
    assert work.lab.in_pod("plain", "cat /data/file") == "before"
    assert len(work.mounts_of("plain", "plain")) == 1
    assert work.record("guest", "guest") is not None


def test_pods_deleted_by_force_leave_nothing(work: Work, pods: tuple[str, str]):
    """Pods go from the API while the kubelet is down: it finds their volumes by itself, and ends them."""
    work.lab.kill_kubelet()
    for name in pods:
        work.api.delete("Pod", name, force=True)
    work.lab.start_kubelet()
    until(
        "no mount and no record is left",
        lambda: not [x for x in work.left() if x.startswith("/") or "csi" in x],
    )
    until("no device is left", lambda: not [line for line in work.left() if "/dev/" in line])


def test_a_claim_grows_while_no_pod_uses_it(work: Work):
    """The kubelet grows it before the next pod's containers start; the data is kept."""
    work.make(claim("between", "xfs", "300Mi"), pod("first", "between"))
    work.running("first")
    work.lab.in_pod("first", "echo kept > /data/file; sync")
    work.delete("Pod", "first")
    work.grow("between", "400Mi")
    until("it waits for a node", lambda: "FileSystemResizePending" in _conditions(work, "between"))
    work.make(pod("second", "between"))
    work.running("second")
    until("the claim has its size", lambda: work.size("between") == "400Mi")
    assert work.lab.in_pod("second", "cat /data/file") == "kept"
    assert int(work.lab.in_pod("second", "df -k /data | tail -1 | awk '{print $2}'")) > 300 * 1024


def test_a_growth_that_cannot_be_does_not_keep_a_pod_from_starting(work: Work):
    """A mounted ext4 grows by CAP_SYS_RESOURCE alone: without it the pod starts with its old size."""
    work.make(claim("stuck", "host"), pod("first", "stuck"))
    work.running("first")
    work.lab.in_pod("first", "echo kept > /data/file; sync")
    work.delete("Pod", "first")
    work.grow("stuck", "160Mi")
    until("it waits for a node", lambda: "FileSystemResizePending" in _conditions(work, "stuck"))
    work.make(pod("second", "stuck"))
    work.running("second")
    assert work.lab.in_pod("second", "cat /data/file") == "kept"
    size_kib = int(work.lab.in_pod("second", "df -k /data | tail -1 | awk '{print $2}'"))
    if _has_sys_resource(work):
        until("the claim has its size", lambda: work.size("stuck") == "160Mi")
    else:
        assert size_kib < 64 * 1024


def _has_sys_resource(work: Work) -> bool:
    """Say whether the driver has CAP_SYS_RESOURCE, number 24."""
    assert work.plugin.driver is not None
    status = Path(f"/proc/{work.plugin.driver.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def _conditions(work: Work, name: str) -> list[str]:
    found = (work.api.get("PersistentVolumeClaim", name) or {}).get("status", {})
    return [each["type"] for each in found.get("conditions", [])]


def _asked(work: Work, rpc: str) -> list[str]:
    return [
        entry["request"] for entry in work.plugin.calls() if entry["rpc"] == rpc and entry["event"] == "asked"
    ]
