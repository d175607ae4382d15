"""What pods get from the real kubelet, containerd and runc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kube_files import NODE
from support.kube_http import until
from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from support.kube_work import Work

MIB = 1 << 20


@pytest.mark.parametrize(
    ("storage_class", "size", "filesystem"), [("host", "64Mi", "ext4"), ("xfs", "300Mi", "xfs")]
)
def test_a_pod_writes_as_its_group(work: Work, storage_class: str, size: str, filesystem: str):
    """A pod that is not root writes by its fsGroup, and what it writes belongs to that group."""
    identity = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}
    work.make(claim("group", storage_class, size), pod("group", "group", securityContext=identity))
    work.running("group")
    assert work.lab.in_pod("group", "echo hello > /data/file && stat -c '%u:%g' /data/file") == "1000:2000"
    assert work.lab.in_pod("group", "awk '$2 == \"/data\" {print $3}' /proc/mounts") == filesystem


def test_a_direct_volume_is_left_to_the_guest(work: Work):
    """On the node a Kata pod gets the guard, which nobody can write to, and Kata gets the record."""
    work.make(claim("direct", "direct", mode="ReadWriteOncePod"))
    work.make(pod("direct", "direct", runtime="kata", securityContext={"fsGroup": 2000}))
    work.running("direct")
    (mount,) = work.mounts_of("direct", "direct")
    assert "katacsi:" in mount
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split(" ")[5].split(","))
    assert "Read-only file system" in work.lab.in_pod("direct", "touch /data/file")
    record = work.record("direct", "direct")
    assert record is not None
    assert record["volume-type"] == "directvol"
    assert record["fstype"] == "ext4"
    assert record["device"].startswith("/dev/loop")
    assert record["metadata"]["fsGroup"] == "2000"


def test_a_block_device_grows_while_it_is_open(work: Work):
    """A pod writes to a raw device, and sees it grow without being started again."""
    work.make(claim("block", "host", volumeMode="Block"), pod("block", "block", block=True))
    work.running("block")
    written = work.lab.in_pod("block", "dd if=/dev/zero of=/dev/data bs=1M count=4 2>&1 && echo done")
    assert written.endswith("done")
    assert int(work.lab.in_pod("block", "blockdev --getsize64 /dev/data")) == 64 * MIB
    work.grow("block", "96Mi")
    until("the claim has its size", lambda: work.size("block") == "96Mi")
    assert int(work.lab.in_pod("block", "blockdev --getsize64 /dev/data")) == 96 * MIB
    assert work.restarts("block") == [0]


def test_the_second_pod_of_a_claim_for_one_pod_waits(work: Work):
    """ReadWriteOncePod: the scheduler holds the second pod back, until the first has gone."""
    work.make(claim("single", "host", mode="ReadWriteOncePod"), pod("first", "single"))
    work.running("first")
    work.make(pod("second", "single"))
    work.event("second", "ReadWriteOncePod")
    work.delete("Pod", "first")
    work.running("second")


def test_two_pods_share_a_host_mount(work: Work):
    """ReadWriteOnce is one node: two pods on it see each other's files."""
    work.make(claim("shared", "host"), pod("one", "shared"), pod("two", "shared"))
    work.running("one", "two")
    work.lab.in_pod("one", "echo hello > /data/file")
    assert work.lab.in_pod("two", "cat /data/file") == "hello"


def test_a_second_guest_is_refused_in_words(work: Work):
    """One device, one guest: the second pod is told by an Event who has it, and gets it afterwards."""
    work.make(claim("lonely", "direct"), pod("one", "lonely", runtime="kata"))
    work.running("one")
    target = work.target("one", "lonely")
    work.make(pod("two", "lonely", runtime="kata"))
    said = work.event("two", "FailedMount: ")
    assert "already" in said or target in said, said
    assert work.record("two", "lonely") is None
    work.delete("Pod", "one")
    work.running("two")
    assert work.record("two", "lonely") is not None


def test_the_kubelet_counts_what_is_used(work: Work):
    """The kubelet's statistics of a host mount are those of its filesystem."""
    work.make(claim("counted", "host"), pod("counted", "counted"))
    work.running("counted")
    work.lab.in_pod("counted", "dd if=/dev/zero of=/data/file bs=1M count=20; sync")
    counted = until("the host mount is counted", lambda: _used(work, "counted", 20 * MIB))
    assert 50 * MIB < counted["capacityBytes"] <= 64 * MIB
    assert counted["inodesFree"] > 0


def test_the_kubelet_knows_the_size_of_a_block_device(work: Work):
    """The kubelet asks for a block device at a path of its own, and gets its numbers there."""
    work.make(claim("raw", "host", volumeMode="Block"), pod("raw", "raw", block=True))
    work.running("raw")
    raw = until("the block device is counted", lambda: _used(work, "raw", 0))
    assert raw["capacityBytes"] == 64 * MIB


def _used(work: Work, name: str, least: int) -> dict[str, Any] | None:
    """Return the kubelet's statistics of a claim, once at least so many bytes are used."""
    summary = work.api.request("GET", f"api/v1/nodes/{NODE}/proxy/stats/summary")
    for each in summary["pods"]:
        for volume in each.get("volume", []):
            if volume.get("pvcRef", {}).get("name") == name and volume.get("capacityBytes"):
                return volume if volume.get("usedBytes", 0) >= least else None
    return None
