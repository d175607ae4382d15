"""Who is told of a refused call: the owner of the claim or the pod, where somebody has to act."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from katacsi import errors
from katacsi._gen.csi import v1 as csi
from katacsi.csi.telling import REASONS, Teller, reason_of
from katacsi.model import SnapshotId, VolumeId
from katacsi.nodewatch.telling import REASON as NODE_GONE
from katacsi.volumes.publish.mark import Published
from katacsi.volumes.publish.marks import Marks
from katacsi.volumes.publish.mode import Mode
from support.door import open_door

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
VOLUME = str(VolumeId("default", "00000000", f"pvc-{UID}"))
TARGET = f"/var/lib/kubelet/pods/{{}}/volumes/kubernetes.io~csi/pvc-{UID}/mount"
CAPABILITY = csi.VolumeCapability(
    mount=csi.VolumeCapabilityMountVolume(),
    access_mode=csi.VolumeCapabilityAccessMode(
        mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_MULTI_WRITER
    ),
)
CREATE = csi.CreateVolumeRequest(
    name=f"pvc-{UID}",
    volume_capabilities=[CAPABILITY],
    parameters={"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "default"},
)
PUBLISH = csi.NodePublishVolumeRequest(
    volume_id="v1:default:00000000:a",
    staging_target_path="/s",
    target_path="/t",
    volume_capability=CAPABILITY,
    volume_context={
        "csi.storage.k8s.io/pod.name": "web-0",
        "csi.storage.k8s.io/pod.namespace": "default",
        "csi.storage.k8s.io/pod.uid": "uid-1",
    },
    secrets={"password": "hunter22hunter"},
)


@pytest.fixture
def told():
    """What people were told: object, its UID, call, reason, words."""
    return []


@pytest.fixture
def marks(tmp_path):
    """What is published on this node."""
    return Marks(tmp_path)


@pytest.fixture
def clock():
    """Seconds, which a test lets pass."""
    return itertools.count(step=40.0)


@pytest.fixture
async def door(told, marks, clock):
    """The services, with somebody to tell; between two refused teardowns 40 seconds pass."""

    def tell(about, action, reason, note):
        told.append((str(about), about.uid, action, reason, note))

    async with open_door(refused=Teller(tell, marks, now=clock.__next__)) as opened:
        yield opened


async def refused(call):
    with pytest.raises(GRPCError):
        await call


async def test_a_refused_volume_is_told_on_its_claim(door, told):
    """The Event is on the PVC, found by the UID in the volume's name, in the words of the answer."""
    door.workflows.answers["provisioning.create"] = errors.OutOfSpace("pool 'default': is full; free room")
    await refused(door.controller.create_volume(CREATE))
    assert told == [("PVC default/data", UID, "CreateVolume", "NoRoom", "pool 'default': is full; free room")]


async def test_a_refused_publish_is_told_on_its_pod_without_secrets(door, told):
    """The Event is on the pod; what came as a secret is in no Event."""
    door.workflows.answers["publishing.publish"] = errors.VolumeInUse("in use, hunter22hunter")
    await refused(door.node.node_publish_volume(PUBLISH))
    ((about, uid, action, reason, note),) = told
    assert (about, uid, action, reason) == ("pod default/web-0", "uid-1", "NodePublishVolume", "VolumeInUse")
    assert note.startswith("in use, ")
    assert "hunter22" not in note


async def test_a_request_that_is_wrong_is_told_as_well(door, told):
    """Also what the door itself refuses, before a workflow is asked."""
    wrong = csi.CreateVolumeRequest(name=CREATE.name, parameters=CREATE.parameters)
    await refused(door.controller.create_volume(wrong))
    assert [(each[0], each[3]) for each in told] == [("PVC default/data", "InvalidRequest")]


@pytest.mark.parametrize(
    "error",
    [
        errors.OperationPending("volume x"),
        errors.Unavailable("the API server is away"),
        errors.HostError("mkfs failed"),
        errors.PoolUnavailable("not mounted"),
        errors.WrongNode("has to be on another node"),
        TimeoutError(),
        RuntimeError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_passes_by_itself_is_not_told(door, told, error):
    """A caller comes again by itself; nobody has to read of it."""
    door.workflows.answers["publishing.publish"] = error
    await refused(door.node.node_publish_volume(PUBLISH))
    assert told == []


def stage(**context):
    return csi.NodeStageVolumeRequest(
        volume_id=VOLUME, staging_target_path="/s", volume_capability=CAPABILITY, volume_context=context
    )


async def test_a_refused_staging_is_told_on_the_claim_that_the_volume_was_made_for(door, told):
    """The context of the volume names the claim; a volume without such a context is told of itself."""
    door.workflows.answers["staging.stage"] = errors.DataLossAlarm("formatted, and blank")
    await refused(door.node.node_stage_volume(stage(**{"katacsi.io/claim": "shop/data"})))
    await refused(door.node.node_stage_volume(stage()))
    assert [each[:4] for each in told] == [
        ("PVC shop/data", UID, "NodeStageVolume", "DataLossAlarm"),
        (f"PV pvc-{UID}", "", "NodeStageVolume", "DataLossAlarm"),
    ]


async def test_a_publish_of_an_old_kubelet_is_told_on_the_claim(door, told):
    """Without podInfoOnMount nobody knows the pod, but the volume knows its claim."""
    door.workflows.answers["publishing.publish"] = errors.Precondition("set podInfoOnMount: true")
    silent = csi.NodePublishVolumeRequest(
        volume_id=VOLUME,
        staging_target_path="/s",
        target_path="/t",
        volume_capability=CAPABILITY,
        volume_context={"katacsi.io/claim": "shop/data"},
    )
    await refused(door.node.node_publish_volume(silent))
    assert [each[:2] for each in told] == [("PVC shop/data", UID)]


async def test_a_growth_that_waits_is_told_on_the_pods_that_have_to_restart(door, told, marks):
    """Whoever described the pod reads that it is to be restarted; without a pod the volume says it."""
    door.workflows.answers["expansion.expand"] = errors.Precondition("restart the pod")
    expand = csi.NodeExpandVolumeRequest(
        volume_id=VOLUME, volume_path="/s", capacity_range=csi.CapacityRange(required_bytes=1)
    )
    await refused(door.node.node_expand_volume(expand))
    for pod, uid in (("web-0", "uid-0"), ("web-1", "uid-1")):
        marks.add(published(TARGET.format(uid), f"shop/{pod}"))
    await refused(door.node.node_expand_volume(expand))
    assert [(each[0], each[1]) for each in told] == [
        (f"PV pvc-{UID}", ""),
        ("pod shop/web-0", "uid-0"),
        ("pod shop/web-1", "uid-1"),
    ]


async def test_a_refused_unpublish_is_told_on_its_pod_alone(door, told, marks):
    """Of the pods that share a volume the one that cannot end is told."""
    door.workflows.answers["unpublishing.unpublish"] = errors.VolumeInUse("a process is in it")
    for pod, uid in (("web-0", "uid-0"), ("web-1", "uid-1")):
        marks.add(published(TARGET.format(uid), f"shop/{pod}"))
    unpublish = csi.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=TARGET.format("uid-1"))
    for _ in range(2):
        await refused(door.node.node_unpublish_volume(unpublish))
    assert [each[:2] for each in told] == [("pod shop/web-1", "uid-1")]


async def test_a_volume_without_claim_or_pod_is_told_of_itself(door, told):
    """To detach and to delete comes when pod and claim are gone; the PersistentVolume is there."""
    door.workflows.answers |= {
        "staging.unstage": errors.VolumeInUse("a guest has it"),
        "provisioning.delete": errors.VolumeInUse("is staged"),
    }
    unstage = csi.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path="/s")
    delete = csi.DeleteVolumeRequest(volume_id=VOLUME)
    for _ in range(2):
        await refused(door.node.node_unstage_volume(unstage))
        await refused(door.controller.delete_volume(delete))
    assert [(each[0], each[2]) for each in told] == [
        (f"PV pvc-{UID}", "NodeUnstageVolume"),
        (f"PV pvc-{UID}", "DeleteVolume"),
    ]


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([0, 29], 0),
        ([0, 29, 30], 1),
        ([0, 601, 620], 0),
        ([0, 500, 1000], 2),
    ],
    ids=["soon over", "lasts", "anew", "slow callers"],
)
async def test_a_teardown_is_told_once_it_has_been_refused_for_a_while(marks, told, times, wanted):
    """A guest that ends lets go within seconds, and the kubelet comes again; what stays is told."""
    moments = iter(times)
    teller = Teller(lambda *words: told.append(words), marks, now=lambda: next(moments))
    async with open_door(refused=teller) as door:
        door.workflows.answers["staging.unstage"] = errors.VolumeInUse("a guest has it")
        unstage = csi.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path="/s")
        for _ in times:
            await refused(door.node.node_unstage_volume(unstage))
    assert len(told) == wanted


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.PoolUnavailable("not mounted"), "PoolUnusable"),
        (errors.HostError("mkfs failed"), "HostFailed"),
        (errors.NotProvenSound("e2fsck failed"), "HostFailed"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_retry_may_mend_is_told_when_no_retry_does(door, told, error, reason):
    """A disk that stays away is somebody's to mount, although the kubelet comes again by itself."""
    door.workflows.answers["publishing.publish"] = error
    await refused(door.node.node_publish_volume(PUBLISH))
    assert told == []
    await refused(door.node.node_publish_volume(PUBLISH))
    assert [(each[0], each[3]) for each in told] == [("pod default/web-0", reason)]


async def test_a_refused_snapshot_is_told_where_it_was_asked_for(door, told):
    """The VolumeSnapshot is named by csi-snapshotter; to delete one, the content is what is left."""
    door.workflows.answers |= {
        "snapshots.create": errors.VolumeInUse("stop its pods"),
        "snapshots.delete": errors.Precondition("is on another node"),
    }
    create = csi.CreateSnapshotRequest(
        source_volume_id=VOLUME,
        name=f"snapshot-{UID}",
        parameters={
            "csi.storage.k8s.io/volumesnapshot/name": "nightly",
            "csi.storage.k8s.io/volumesnapshot/namespace": "shop",
        },
    )
    await refused(door.controller.create_snapshot(create))
    snapshot = str(SnapshotId("default", "00000000", f"snapshot-{UID}"))
    await refused(door.controller.delete_snapshot(csi.DeleteSnapshotRequest(snapshot_id=snapshot)))
    assert [each[:4] for each in told] == [
        ("VolumeSnapshot shop/nightly", UID, "CreateSnapshot", "VolumeInUse"),
        (f"VolumeSnapshotContent snapcontent-{UID}", "", "DeleteSnapshot", "NotPossible"),
    ]


def published(target, pod):
    return Published(
        target, VOLUME, Mode.DIRECT, "mount", "single", "ext4", (), False, "", "Always", "/dev/x", "/s", pod
    )


async def test_without_an_object_nobody_is_told(door, told):
    """A call that does not say whose it is, or is nobody's, is in the log alone."""
    door.workflows.answers |= {
        "publishing.publish": errors.Precondition("x"),
        "provisioning.delete": errors.VolumeInUse("x"),
    }
    await refused(door.controller.delete_volume(csi.DeleteVolumeRequest(volume_id="v")))
    nobody = csi.NodePublishVolumeRequest(
        volume_id="v", staging_target_path="/s", target_path="/t", volume_capability=CAPABILITY
    )
    await refused(door.node.node_publish_volume(nobody))
    assert told == []


async def test_an_answer_does_not_suffer_from_the_telling(marks):
    """Whatever goes wrong while telling, the caller gets the answer of the call."""

    def broken(*_):
        raise RuntimeError("no API here")

    async with open_door(refused=Teller(broken, marks)) as door:
        door.workflows.answers["publishing.publish"] = errors.Precondition("the answer")
        with pytest.raises(GRPCError, match="the answer"):
            await door.node.node_publish_volume(PUBLISH)


def test_every_error_that_is_told_has_a_reason():
    """A new class of error gets a word of its own, or its family's, and a line on the page for operators."""
    every = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    # The root is never raised itself; a list's token concerns no object.
    for kind in set(every) - {errors.KatacsiError, errors.InvalidPageToken}:
        if not kind.retry_helps:
            assert reason_of(kind.__new__(kind)), kind
    page = (Path(__file__).parents[3] / "docs/kubernetes.md").read_text("utf-8")
    assert [reason for reason in {*REASONS.values(), NODE_GONE} if f"\n| `{reason}` | " not in page] == []
    assert all(reason.isalpha() and reason[0].isupper() for reason in REASONS.values())
