"""Who decides that a volume is direct: class, claim or pod; and what a person reads of a refusal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from support.kube_http import until
from support.kube_lab import held
from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from support.kube_work import Work


@pytest.mark.parametrize(
    ("storage_class", "annotations", "runtime", "direct"),
    [
        pytest.param("direct", {}, "kata", True, id="class"),
        pytest.param("host", {"katacsi.io/direct": "true"}, "kata", True, id="claim"),
        pytest.param("host", {"skip-hostmount": "true"}, "kata", True, id="claim-of-old"),
        pytest.param("auto", {}, "kata", True, id="pod"),
        pytest.param("auto", {}, "", False, id="pod-of-runc"),
        pytest.param("direct", {"katacsi.io/direct": "false"}, "kata", False, id="claim-against-it"),
    ],
)
def test_each_of_three_ways_decides(
    work: Work, storage_class: str, annotations: dict[str, str], runtime: str, direct: bool
):
    """A StorageClass, a claim's annotation, a pod's RuntimeClass: each makes a volume direct, or not."""
    work.make(claim("way", storage_class, annotations=annotations), pod("way", "way", runtime=runtime))
    work.running("way")
    record = work.record("way", "way")
    assert (record is not None) == direct
    written = work.lab.in_pod("way", "touch /data/file && echo written")
    assert ("Read-only file system" in written) if direct else (written == "written")


def test_one_volume_goes_from_mode_to_mode(work: Work):
    """What is left to the pod is decided for each pod: on the host first, then by a guest."""
    work.make(claim("both", "auto"), pod("plain", "both"))
    work.running("plain")
    assert work.record("plain", "both") is None
    work.delete("Pod", "plain")
    work.make(pod("guest", "both", runtime="kata"))
    work.running("guest")
    assert work.record("guest", "both") is not None


def test_a_direct_volume_is_refused_to_a_pod_without_kata(work: Work):
    """Such a pod would see an empty directory: it does not start, and an Event says what to do."""
    work.make(claim("wrong", "direct"), pod("wrong", "wrong"))
    work.event("wrong", "Give the pod a Kata runtimeClassName")
    reporters = {each.get("reportingComponent") for each in work.api.list("Event", "default")}
    assert "local.katacsi.io" in reporters, "katacsi itself says so, beside the kubelet"
    assert not work.mounts_of("wrong", "wrong")


def test_a_sub_path_of_a_direct_volume_is_refused_in_words(work: Work):
    """Kata would not find the record of a sub-path: the pod does not start, and an Event says why."""
    work.make(claim("part", "direct"), pod("part", "part", runtime="kata", sub_path="inner"))
    work.event("part", "subPath")
    assert (work.api.get("Pod", "part") or {})["status"]["phase"] == "Pending"


def test_a_bad_annotation_is_told_on_its_claim(work: Work):
    """No volume is made of a claim whose annotation says nothing legal; corrected, it is made."""
    bad = claim("typo", "host", annotations={"katacsi.io/direct": "yes"})
    work.make(bad, pod("typo", "typo"))
    said = work.event("typo", "katacsi.io/direct")
    assert "true" in said, said
    assert not work.plugin.volumes()
    work.make(claim("typo", "host", annotations={"katacsi.io/direct": "false"}))
    work.running("typo", limit_s=180)


def test_a_publish_waits_for_an_api_server_that_hangs(work: Work):
    """Asked for the pod, the API server is silent: UNAVAILABLE, no guess; once it speaks, the pod starts."""
    work.make(claim("slow", "auto"), pod("first", "slow"))
    work.running("first")
    work.delete("Pod", "first")
    # The driver is held while the kubelet comes to it, so that the API server can be held before it is asked.
    kubelet_log = work.lab.files.log / "kubelet.log"
    read = kubelet_log.stat().st_size
    with contextlib.ExitStack() as silence:
        with work.plugin.driver.held():
            work.make(pod("second", "slow", automountServiceAccountToken=False))
            until("the kubelet mounts", lambda: b"MountVolume started" in kubelet_log.read_bytes()[read:])
            silence.enter_context(held(work.lab.process_of("kube-apiserver")))
        until("the driver cannot ask", lambda: _answers(work, "NodePublishVolume")[-1] == "UNAVAILABLE")
    work.running("second")
    assert _answers(work, "NodePublishVolume")[-1] == "OK"


def _answers(work: Work, rpc: str) -> list[str]:
    """Return the codes of the driver's answers, the oldest first."""
    calls = work.plugin.calls()
    return [entry["code"] for entry in calls if entry["rpc"] == rpc and entry["event"] == "answered"]
