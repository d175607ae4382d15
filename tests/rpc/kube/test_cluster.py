"""What the cluster is asked, on a real HTTPS server: about exactly the right object, by few requests."""

from __future__ import annotations

import pytest

from katacsi.errors import NotFound, NotPermitted, Precondition, Unavailable
from katacsi.kube import paths
from katacsi.kube.cluster import KubeCluster
from katacsi.kube.objects import CLAIM, POD, ObjectRef

WEB = ObjectRef(POD, "default", "web-0", "uid-1")
DATA = ObjectRef(CLAIM, "default", "data", "uid-2")
KATA = paths.runtime_class("kata")

SPEC = {
    "runtimeClassName": "kata",
    "securityContext": {"fsGroupChangePolicy": "Always"},
    "volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
        {"name": "c", "configMap": {"name": "x"}},
    ],
    "initContainers": [{"name": "i", "volumeMounts": [{"name": "b", "subPathExpr": "$(X)"}]}],
    "containers": [
        {"name": "m", "volumeMounts": [{"name": "a"}, {"name": "c", "subPath": "x"}]},
        {"name": "n"},
    ],
}


@pytest.fixture
def cluster(api):
    return KubeCluster(api, None, runtime_class_cache_s=60)


@pytest.fixture
def objects(server):
    """A claim, a pod that uses it, its RuntimeClass."""
    server.objects |= {
        paths.pod("default", "web-0"): {
            "metadata": {"name": "web-0", "namespace": "default", "uid": "uid-1"},
            "spec": SPEC,
        },
        paths.claim("default", "data"): {
            "metadata": {
                "name": "data",
                "namespace": "default",
                "uid": "uid-2",
                "annotations": {"katacsi.io/direct": "true"},
            },
        },
        KATA: {"metadata": {"name": "kata"}, "handler": "kata-qemu"},
        paths.persistent_volume("pv-1"): {"spec": {"claimRef": {"name": "data", "namespace": "default"}}},
    }
    return server.objects


async def test_all_that_a_publish_asks_for_is_two_requests(server, objects, cluster):
    """The pod and its RuntimeClass; a second pod of that RuntimeClass costs one request."""
    pod = await cluster.pod(WEB)
    assert await cluster.runtime_handler(pod) == "kata-qemu"
    assert server.requests == [f"GET {paths.pod('default', 'web-0')}", f"GET {KATA}"]
    await cluster.runtime_handler(await cluster.pod(WEB))
    assert len(server.requests) == 3


async def test_what_is_read_of_a_pod(objects, cluster):
    """Its RuntimeClass, its policy, the claims behind its volumes, and which it mounts in part."""
    pod = await cluster.pod(WEB)
    assert (pod.runtime_class, pod.fs_group_change_policy) == ("kata", "Always")
    assert pod.claims == {"a": "data", "b": "web-0-b"}
    assert pod.sub_paths == {"b", "c"}


@pytest.mark.parametrize("spec", [{}, {"volumes": None, "containers": None, "securityContext": None}, None])
async def test_a_pod_that_says_nothing_is_read(objects, cluster, spec):
    """What Kubernetes leaves out, or writes as null, is empty."""
    objects[paths.pod("default", "web-0")]["spec"] = spec
    pod = await cluster.pod(WEB)
    assert (pod.runtime_class, pod.fs_group_change_policy, pod.claims, pod.sub_paths) == ("", "", {}, set())


async def test_a_claim_is_one_request(server, objects, cluster):
    """Creating a volume costs a single GET."""
    claim = await cluster.claim(DATA)
    assert claim.annotations == {"katacsi.io/direct": "true"}
    assert server.requests == [f"GET {paths.claim('default', 'data')}"]


async def test_a_pod_of_the_same_name_is_another_pod(objects, cluster):
    """A pod that was deleted and made anew between the calls does not lend its facts to the first."""
    objects[paths.pod("default", "web-0")]["metadata"]["uid"] = "uid-9"
    with pytest.raises(Precondition, match=r"uid-1.*was deleted.*uid-9.*has its name"):
        await cluster.pod(WEB)


async def test_a_claim_of_the_same_name_is_another_claim(objects, cluster):
    """Neither does a claim; where the caller did not tell the UID, the name has to do."""
    objects[paths.claim("default", "data")]["metadata"]["uid"] = "uid-9"
    with pytest.raises(Precondition, match=r"uid-2.*was deleted.*uid-9.*has its name"):
        await cluster.claim(DATA)
    assert (await cluster.claim(ObjectRef(CLAIM, "default", "data"))).ref.uid == "uid-9"


async def test_what_is_gone_is_named(objects, cluster):
    """A pod, claim, RuntimeClass or PersistentVolume that does not exist is a refusal with words."""
    pod = await cluster.pod(WEB)
    objects.clear()
    with pytest.raises(Precondition, match=r"pod default/web-0 .*was deleted"):
        await cluster.pod(WEB)
    with pytest.raises(Precondition, match="PVC default/data: was deleted"):
        await cluster.claim(DATA)
    with pytest.raises(Precondition, match=r"web-0: its RuntimeClass 'kata' does not exist.*create"):
        await cluster.runtime_handler(pod)
    with pytest.raises(Precondition, match="PV pv-1: does not exist"):
        await cluster.claim_of("pv-1")


async def test_a_runtime_class_is_remembered_for_a_while_only(server, objects, api):
    """A RuntimeClass that was replaced counts after `kube.runtime_class_cache` seconds."""
    cluster = KubeCluster(api, None, runtime_class_cache_s=0)
    pod = await cluster.pod(WEB)
    await cluster.runtime_handler(pod)
    objects[KATA]["handler"] = "runc"
    assert await cluster.runtime_handler(pod) == "runc"


async def test_one_that_was_missing_is_asked_for_again(objects, cluster):
    """What does not exist is not remembered: the pod starts as soon as somebody made it."""
    pod = await cluster.pod(WEB)
    kept = objects.pop(KATA)
    with pytest.raises(Precondition):
        await cluster.runtime_handler(pod)
    objects[KATA] = kept
    assert await cluster.runtime_handler(pod) == "kata-qemu"


async def test_the_claim_of_a_persistent_volume(objects, cluster):
    """The PersistentVolume says which claim it is bound to; one that is free has none."""
    assert await cluster.claim_of("pv-1") == "data"
    objects[paths.persistent_volume("pv-1")]["spec"] = {"claimRef": None}
    with pytest.raises(Precondition, match="bound to no claim"):
        await cluster.claim_of("pv-1")


@pytest.mark.parametrize(("status", "error"), [(403, NotPermitted), (429, Unavailable), (500, Unavailable)])
async def test_a_server_that_will_not_say_is_never_taken_for_no(server, objects, cluster, status, error):
    """Whatever cannot be read is an error that names the object; nothing is assumed."""
    pod = await cluster.pod(WEB)
    server.failing = status
    for ask, named in (
        (cluster.pod(WEB), "pod default/web-0"),
        (cluster.claim(DATA), "PVC default/data"),
        (cluster.runtime_handler(pod), "RuntimeClass kata of pod default/web-0"),
        (cluster.claim_of("pv-1"), "PV pv-1"),
    ):
        with pytest.raises(error, match=named):
            await ask


DRIVER, HANDLE = "local.katacsi.io", "v1:default:0a1b2c3d:pvc-1"
EVERY = paths.persistent_volumes()


def pv(handle: str, *, driver: str = DRIVER) -> dict:
    """A PersistentVolume that leads to a volume."""
    return {"spec": {"csi": {"driver": driver, "volumeHandle": handle}}}


async def test_a_volume_with_its_pv_costs_one_request(server, cluster):
    """The provisioner's PersistentVolume has the volume's name and its id; nothing is listed."""
    server.objects[paths.persistent_volume("pvc-1")] = pv(HANDLE)
    assert await cluster.without_persistent_volume(DRIVER, {HANDLE: "pvc-1"}) == frozenset()
    assert server.requests == [f"GET {paths.persistent_volume('pvc-1')}"]


@pytest.mark.parametrize("name", ["pvc-1", "no name in Kubernetes/at all"])
async def test_a_pv_of_another_name_leads_to_its_volume(server, cluster, name):
    """A person made it anew under another name: the list of all is looked through before a word is said."""
    server.objects[EVERY] = {"items": [pv("another"), {"spec": {"nfs": {}}}, pv(HANDLE), {"spec": None}]}
    assert await cluster.without_persistent_volume(DRIVER, {HANDLE: name}) == frozenset()
    assert server.requests[-1] == f"GET {EVERY}"


async def test_what_no_pv_leads_to_is_named(server, cluster):
    """One of the name that leads elsewhere, or that is another driver's, does not count."""
    server.objects[paths.persistent_volume("pvc-1")] = pv("another")
    server.objects[paths.persistent_volume("pvc-2")] = pv("second")
    server.objects[EVERY] = {"items": [pv("second"), pv(HANDLE, driver="other.example")]}
    asked = {HANDLE: "pvc-1", "second": "pvc-2", "third": "pvc-3"}
    assert await cluster.without_persistent_volume(DRIVER, asked) == {HANDLE, "third"}


@pytest.mark.parametrize("at", ["get", "list"])
async def test_without_an_answer_nobody_is_called_an_orphan(server, cluster, at):
    """The server fails, or forbids the list: an error, never an empty answer."""
    if at == "get":
        server.failing = 503
    else:
        server.objects.pop(EVERY, None)  # 404, as of a kind that one may not see
    with pytest.raises((Unavailable, NotFound)):
        await cluster.without_persistent_volume(DRIVER, {HANDLE: "pvc-1"})
