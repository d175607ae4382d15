"""The pod of a publish: who it is, whether it runs in Kata, whether it takes the whole volume."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from katacsi.errors import Precondition
from katacsi.kube.objects import POD, ObjectRef, Pod
from katacsi.settings import Settings
from katacsi.volumes.publish import pods
from katacsi.volumes.publish.mode import PodRuntime
from katacsi.volumes.publish.pods import NAME, NAMESPACE, UID, PodReader
from support.cluster import StandIn

REF = ObjectRef(POD, "default", "web-0", "uid-1")
INFO = {NAME: "web-0", NAMESPACE: "default", UID: "uid-1"}
TARGET = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pv-1/mount"


def reader(cluster=None, **kube):
    settings = Settings.model_validate({"kube": kube})
    return PodReader(SimpleNamespace(cluster=cluster or StandIn(), settings=settings))


@pytest.mark.parametrize("missing", [None, NAME, NAMESPACE, UID])
def test_a_pod_is_named_whole_or_not_at_all(missing):
    """Without its UID a pod might be taken for another one of its name."""
    context = {key: value for key, value in INFO.items() if key != missing}
    assert pods.reference(context) == (REF if missing is None else None)


@pytest.mark.parametrize(
    ("handler", "patterns", "kata"),
    [
        ("kata", None, True),
        ("kata-qemu", None, True),
        ("runc", None, False),
        ("my-kata", None, False),
        ("Kata", None, False),
        ("my-kata", ["*kata"], True),
        ("firecracker", ["kata*", "fire?racker"], True),
        ("kata", ["kata-[cq]*"], False),
        ("kata-clh", ["kata-[cq]*"], True),
        ("kata", [], False),
    ],
)
async def test_handlers_are_compared_as_a_shell_does(handler, patterns, kata):
    """The handler counts, to the letter; the patterns are the operator's."""
    cluster = StandIn()
    cluster.handlers = {"any-name": handler}
    kube = {} if patterns is None else {"kata_handlers": patterns}
    runtime = await reader(cluster, **kube).runtime_of(Pod(REF, "any-name"))
    assert runtime is (PodRuntime.KATA if kata else PodRuntime.OTHER)


@pytest.mark.parametrize(("kata", "runtime"), [(False, PodRuntime.OTHER), (True, PodRuntime.KATA)])
async def test_a_pod_without_a_runtime_class_runs_in_the_nodes_default(kata, runtime):
    """Nobody is asked: the operator knows what the node runs by default."""
    cluster = StandIn()
    assert await reader(cluster, default_runtime_is_kata=kata).runtime_of(Pod(REF)) is runtime
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("claims", "sub_paths", "bound", "asked", "refused"),
    [
        ({}, set(), "", [], False),
        ({"a": "data"}, set(), "", [], False),
        ({"a": "data"}, {"config"}, "", [], False),
        ({"a": "data"}, {"a"}, "", [], True),
        # Twice the same claim is one claim.
        ({"a": "data", "b": "data"}, {"b"}, "", [], True),
        ({"a": "data", "b": "logs"}, set(), "", [], False),
        ({"a": "data", "b": "logs"}, {"b"}, "logs", ["claim_of"], True),
        ({"a": "data", "b": "logs"}, {"b"}, "data", ["claim_of"], False),
    ],
)
async def test_who_takes_a_part_of_the_volume(claims, sub_paths, bound, asked, refused):
    """It is found without a question wherever the pod leaves no doubt."""
    cluster = StandIn()
    cluster.bound["pv-1"] = bound
    pod = Pod(REF, claims=claims, sub_paths=frozenset(sub_paths))
    if refused:
        with pytest.raises(Precondition, match=r"pod default/web-0: .*subPath.*katacsi.io/direct"):
            await reader(cluster).require_whole(pod, TARGET)
    else:
        await reader(cluster).require_whole(pod, TARGET)
    assert cluster.asked == asked
