"""The three ways to ask for a direct volume: StorageClass, claim, and the pod's runtime."""

from __future__ import annotations

import pytest

from katacsi.errors import AlreadyExists, InvalidRequest, Precondition, Unavailable
from katacsi.host import ownership
from katacsi.kube.cluster import KubeCluster
from katacsi.model import AccessType
from support import cluster as clusters
from support.cluster import StandIn
from support.node import DIRECT, mounts_at

AUTO = {DIRECT: "auto"}


@pytest.fixture
def cluster(node):
    """A cluster that the node's workflows ask."""
    return clusters.put_into(node, StandIn())


@pytest.fixture
def staged(cluster, volume):
    """Make a volume and stage it: `await staged(parameters=…)`."""

    async def stage(name="pvc-1", **other):
        pvc = volume(name, **{"parameters": AUTO} | other)
        await pvc.create()
        await pvc.stage()
        return pvc

    return stage


async def publish(pvc, pod_info, **other):
    """Publish as the kubelet does with `podInfoOnMount: true`."""
    return await pvc.publish(volume_context={**pvc.context, **pod_info}, **other)


def is_direct(node, pvc):
    """Whether a record names the volume; if not, a mount has to."""
    direct = node.record(pvc.target) is not None
    assert (mounts_at(pvc.staging) == 1) is not direct
    return direct


def test_the_stand_in_is_asked_as_the_real_one_is():
    """What these tests stand on takes exactly the calls that Cluster and KubeCluster take."""
    wanted = clusters.methods(clusters.Cluster)
    assert clusters.methods(StandIn) == wanted
    assert clusters.methods(KubeCluster) == wanted


# -- the pod's runtime ---------------------------------------------------------------------------------


@pytest.mark.gate("a-retry-keeps-its-mode")
@pytest.mark.gate("pv-lookup-not-needed-at-publish")
@pytest.mark.parametrize("now", ["down", "plain", "no cluster"])
async def test_a_retry_keeps_the_mode_and_asks_nobody(node, staged, cluster, now):
    """A lost reply, an API server that is down or another RuntimeClass never flips a published volume."""
    pvc = await staged()
    pod = cluster.run(runtime_class="kata", fs_group_change_policy="Always")
    await publish(pvc, pod)
    before = node.record(pvc.target)
    await node.restart()
    later = StandIn()
    later.run(runtime_class="plain")
    later.down = now == "down"
    if now != "no cluster":
        clusters.put_into(node, later)
    for _ in range(2):
        await publish(pvc, pod)
    await pvc.stage()
    assert later.asked == []
    assert node.record(pvc.target) == before
    assert mounts_at(pvc.staging) == 0
    await pvc.down()


@pytest.mark.gate("one-mode-decision")
@pytest.mark.parametrize(
    ("runtime_class", "kube", "direct"),
    [
        ("kata", {}, True),
        ("plain", {}, False),
        ("", {}, False),
        ("", {"default_runtime_is_kata": True}, True),
        ("plain", {"default_runtime_is_kata": True}, False),
        ("kata", {"kata_handlers": ["mykata"]}, False),
        ("plain", {"kata_handlers": ["mykata", "ru?c"]}, True),
    ],
)
async def test_an_auto_volume_goes_where_its_pod_runs(node, volume, runtime_class, kube, direct):
    """The same staged volume is a record or a mount, by the handler of its pod's RuntimeClass."""
    await node.restart(kube=kube)
    cluster = clusters.put_into(node, StandIn())
    pvc = volume(parameters=AUTO)
    await pvc.create()
    await pvc.stage()
    await publish(pvc, cluster.run(runtime_class=runtime_class))
    assert is_direct(node, pvc) is direct
    assert cluster.asked == (["pod", "runtime_handler"] if runtime_class else ["pod"])
    await pvc.down()


@pytest.mark.parametrize("asked", ["auto", "true"])
@pytest.mark.parametrize("fault", ["down", "no such RuntimeClass", "no pod info"])
async def test_what_cannot_be_read_is_not_guessed(node, staged, cluster, asked, fault):
    """No pod info, no RuntimeClass, no API server: neither a record nor a mount, and words on what to do."""
    pvc = await staged(parameters={DIRECT: asked})
    pod = cluster.run(runtime_class="none" if fault == "no such RuntimeClass" else "kata")
    cluster.down = fault == "down"
    error, words = {
        "down": (Unavailable, "away"),
        "no such RuntimeClass": (Precondition, "no RuntimeClass"),
        "no pod info": (Precondition, "podInfoOnMount: true in the CSIDriver object local.katacsi.io"),
    }[fault]
    with pytest.raises(error, match=words):
        await publish(pvc, {} if fault == "no pod info" else pod)
    assert not pvc.target.exists()
    assert mounts_at(pvc.staging) == 0
    assert node.driver.context.marks.published(str(pvc.target)) is None
    await pvc.unstage()


async def test_a_pod_without_kata_does_not_get_an_empty_folder(staged, cluster):
    """A volume that has to be direct is refused to a pod that would see nothing of it."""
    pvc = await staged(parameters={DIRECT: "true"})
    with pytest.raises(Precondition, match="runtimeClassName"):
        await publish(pvc, cluster.run(runtime_class="plain"))
    assert not pvc.target.exists()
    await pvc.unstage()


async def test_what_does_not_depend_on_the_pod_asks_nobody(node, staged, cluster):
    """A block volume, and a host mount that is given to no group, are published without the API server."""
    cluster.down = True
    block = await staged("pvc-block", access=AccessType.BLOCK)
    host = await staged("pvc-host", parameters={DIRECT: "false"})
    pod = cluster.run(runtime_class="kata")
    await publish(block, pod)
    await publish(host, pod)
    await publish(host, {}, target=node.pods / "second" / "mount")
    assert cluster.asked == []
    await host.unpublish(node.pods / "second" / "mount")
    for pvc in (block, host):
        await pvc.down()


# -- what else the pod says ----------------------------------------------------------------------------


@pytest.mark.parametrize("runtime_class", ["kata", "plain"])
@pytest.mark.parametrize("said", ["Always", "OnRootMismatch", ""])
async def test_the_pods_change_policy_beats_the_storage_class(node, staged, cluster, said, runtime_class):
    """`fsGroupChangePolicy` of the pod counts; where it says nothing, the StorageClass decides."""
    pvc = await staged(parameters={**AUTO, "katacsi.io/fs-group-change-policy": "None"}, mount_group="2000")
    await publish(pvc, cluster.run(runtime_class=runtime_class, fs_group_change_policy=said))
    assert node.driver.context.marks.published(str(pvc.target)).fs_group_change_policy == (said or "None")
    await pvc.down()


async def test_a_host_mount_with_a_group_asks_for_the_policy_alone(monkeypatch, staged, cluster):
    """Nothing but the pod is read, and what it says reaches the files."""
    applied = []
    monkeypatch.setattr(ownership, "apply_group", lambda path, gid, policy: applied.append(policy))
    pvc = await staged(parameters={DIRECT: "false"}, mount_group="2000")
    await publish(pvc, cluster.run(runtime_class="kata", fs_group_change_policy="Always"))
    assert (applied, cluster.asked) == (["Always"], ["pod"])
    await pvc.down()


async def test_a_host_mount_with_a_group_needs_no_pod_info(node, staged, cluster):
    """Where the kubelet does not name the pod, the StorageClass says when its group is applied."""
    pvc = await staged(
        parameters={DIRECT: "false", "katacsi.io/fs-group-change-policy": "Always"}, mount_group="2000"
    )
    await publish(pvc, {})
    assert node.driver.context.marks.published(str(pvc.target)).fs_group_change_policy == "Always"
    assert cluster.asked == []
    await pvc.down()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("runtime_class", ["kata", "plain"])
async def test_a_part_of_a_direct_volume_is_refused_in_words(staged, cluster, several, runtime_class):
    """A pod that uses the volume by subPath cannot have it direct; as a host mount it can."""
    claims = {"data": "data", "other": "other"} if several else {"data": "data"}
    pod = cluster.run(runtime_class=runtime_class, claims=claims, sub_paths=frozenset({"data", "scratch"}))
    pvc = await staged()
    # The kubelet's target names the PersistentVolume.
    target = pvc.target.parent / "pv-1" / "mount"
    cluster.bound["pv-1"] = "data"
    if runtime_class == "plain":
        await publish(pvc, pod, target=target)
        await pvc.unpublish(target)
    else:
        with pytest.raises(Precondition, match=r"pod default/web-0: .* PVC data by subPath"):
            await publish(pvc, pod, target=target)
        assert not target.exists()
    assert ("claim_of" in cluster.asked) is (several and runtime_class == "kata")
    await pvc.unstage()


async def test_a_part_of_another_volume_does_not_matter(node, staged, cluster):
    """It is the volume's own claim that has to be mounted whole."""
    claims = {"data": "data", "other": "other"}
    pod = cluster.run(runtime_class="kata", claims=claims, sub_paths=frozenset({"other"}))
    pvc = await staged()
    target = pvc.target.parent / "pv-1" / "mount"
    cluster.bound["pv-1"] = "data"
    await publish(pvc, pod, target=target)
    assert node.record(target) is not None
    await pvc.unpublish(target)
    await pvc.unstage()


# -- the claim -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "stored"),
    [
        ({"katacsi.io/direct": "true"}, "true"),
        ({"katacsi.io/direct": "false"}, "false"),
        ({"katacsi.io/direct": "auto"}, "auto"),
        ({"skip-hostmount": "true"}, "true"),
        ({"skip-hostmount": "false"}, "false"),
        ({"katacsi.io/direct": "false", "skip-hostmount": "true"}, "false"),
        ({"unrelated": "true"}, "auto"),
    ],
)
@pytest.mark.parametrize("by_class", ["auto", "true", "false"])
async def test_the_claims_annotation_beats_the_storage_class(volume, cluster, annotations, stored, by_class):
    """What a claim asks for is stored with its volume, and every call of the node is told the same."""
    if "unrelated" in annotations:
        stored = by_class
    pvc = volume(parameters={DIRECT: by_class, **cluster.annotate(annotations)})
    view = await pvc.create()
    assert view.context[DIRECT] == stored
    assert cluster.asked == ["claim"]
    await pvc.delete()


async def test_a_repeated_creation_takes_what_the_first_one_read(node, volume, cluster):
    """An API server that is away, or a claim that was changed since, changes nothing about the volume."""
    pvc = volume(parameters={**AUTO, **cluster.annotate({"katacsi.io/direct": "true"})})
    first = await pvc.create()
    cluster.annotate({"katacsi.io/direct": "nonsense"})
    cluster.down = True
    again = await pvc.create()
    assert (again.volume.id, again.context) == (first.volume.id, first.context)
    assert cluster.asked == ["claim"]
    await node.restart()  # and without a cluster as well
    third = await pvc.create()
    assert third.context == first.context
    await pvc.delete()


async def test_a_claim_that_asks_for_nothing_leaves_the_storage_class_strict(volume, cluster):
    """A name asked for with another StorageClass is taken, as ever; later annotations do not count."""
    named = cluster.annotate()
    pvc = volume(parameters={DIRECT: "true", **named})
    await pvc.create()
    cluster.annotate({"katacsi.io/direct": "false"})
    assert (await pvc.create()).context[DIRECT] == "true"
    with pytest.raises(AlreadyExists):
        await volume(parameters={DIRECT: "false", **named}).create()
    await pvc.delete()


@pytest.mark.parametrize(
    ("key", "value", "legal"),
    [
        ("katacsi.io/direct", "yes", "'auto', 'true', 'false'"),
        ("katacsi.io/direct", "", "'auto', 'true', 'false'"),
        ("katacsi.io/direct", "True", "'auto', 'true', 'false'"),
        ("skip-hostmount", "1", "'true', 'false'"),
    ],
)
async def test_a_bad_annotation_is_refused_with_what_is_legal(volume, cluster, key, value, legal):
    """The claim, the key, its value and the legal ones are named; no volume is made."""
    named = cluster.annotate({key: value})
    pvc = volume(parameters={**AUTO, **named})
    with pytest.raises(Precondition) as refusal:
        await pvc.create()
    for words in ("PVC default/data", key, repr(value), legal, "kubectl -n default annotate"):
        assert words in refusal.value.message
    assert (await pvc.node.driver.provisioning.list("", 0)).volumes == ()


async def test_a_claim_that_cannot_be_read_is_not_guessed(node, volume, cluster):
    """No volume is made while nobody knows what its claim asks for."""
    pvc = volume(parameters={**AUTO, **cluster.annotate()})
    cluster.down = True
    with pytest.raises(Unavailable):
        await pvc.create()
    assert (await node.driver.provisioning.list("", 0)).volumes == ()


async def test_without_the_claims_name_the_storage_class_decides(volume, cluster):
    """A provisioner that does not say which claim it is for is served without a question."""
    pvc = volume(parameters={DIRECT: "true"})
    assert (await pvc.create()).context[DIRECT] == "true"
    assert cluster.asked == []
    await pvc.delete()


async def test_a_filesystem_has_to_suit_what_the_claim_asks_for(volume, cluster):
    """btrfs cannot be direct, whoever asks for that; a claim may ask for a host mount of it instead."""
    wants = cluster.annotate({"katacsi.io/direct": "true"}, name="wants")
    with pytest.raises(InvalidRequest, match="btrfs"):
        await volume(fs_type="btrfs", parameters={DIRECT: "false", **wants}).create()
    refuses = cluster.annotate({"katacsi.io/direct": "false"}, name="refuses")
    pvc = volume(fs_type="btrfs", parameters={DIRECT: "true", **refuses})
    await pvc.create()
    await pvc.delete()


async def test_delete_unpublish_and_growth_ask_nobody(staged, cluster):
    """Nothing but a creation and a first publish depends on the API server."""
    pvc = await staged()
    await publish(pvc, cluster.run(runtime_class="plain"))
    cluster.asked.clear()
    cluster.down = True
    await pvc.stats()
    await pvc.stage()
    await pvc.down()
    await pvc.delete()
    assert cluster.asked == []
