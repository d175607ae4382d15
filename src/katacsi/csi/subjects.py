"""Whose call it is: the objects in the cluster at which its people look.

Only what a call says itself, what its volume's context says and what is published here is used: the API is
asked nothing. The UID of a PersistentVolume or a VolumeSnapshotContent is not known that way, and `kubectl
describe` looks for it; their Events are found by name: `kubectl --namespace default events --for pv/NAME`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi.kube.objects import PERSISTENT_VOLUME, POD, SNAPSHOT, SNAPSHOT_CONTENT, ObjectRef, uid_in
from katacsi.model import MalformedId, SnapshotId, VolumeId
from katacsi.volumes import claims
from katacsi.volumes.publish import kubeletpaths, pods

if TYPE_CHECKING:
    from collections.abc import Iterable

    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.publish.marks import Marks

#: What csi-snapshotter adds to the parameters with --extra-create-metadata.
SNAPSHOT_NAME: Final = "csi.storage.k8s.io/volumesnapshot/name"
SNAPSHOT_NAMESPACE: Final = "csi.storage.k8s.io/volumesnapshot/namespace"


def subjects_of(message: object, marks: Marks) -> list[ObjectRef]:
    """Give the objects whose owners a call concerns; none where nobody knows any.

    For what is to be mended in a pod that is the pod; else the claim, and once that is gone the volume.
    """
    match message:
        case csi.CreateVolumeRequest():
            found = _known(claims.reference(message.parameters, message.name))
        case csi.NodePublishVolumeRequest():
            found = _known(pods.reference(message.volume_context)) or _claim(message)
        case csi.NodeStageVolumeRequest():
            found = _claim(message)
        case csi.NodeUnpublishVolumeRequest():
            found = _pods([marks.published(message.target_path)]) or _volume(message.volume_id)
        case csi.NodeExpandVolumeRequest() | csi.ControllerExpandVolumeRequest():
            found = _pods(marks.targets_of(message.volume_id)) or _volume(message.volume_id)
        case csi.NodeUnstageVolumeRequest() | csi.DeleteVolumeRequest():
            found = _volume(message.volume_id)
        case csi.CreateSnapshotRequest():
            found = _snapshot(message)
        case csi.DeleteSnapshotRequest():
            found = _content(message.snapshot_id)
        case _:
            found = []
    return found


def _known(ref: ObjectRef | None) -> list[ObjectRef]:
    return [ref] if ref else []


def _claim(message: csi.NodeStageVolumeRequest | csi.NodePublishVolumeRequest) -> list[ObjectRef]:
    """Give the claim that the volume was made for; of a volume that does not say so, the volume."""
    name = _name(VolumeId, message.volume_id)
    return _known(claims.told_by_context(message.volume_context, name)) or _volume(message.volume_id)


def _pods(places: Iterable[Published | None]) -> list[ObjectRef]:
    """Give the pods of these places, each once."""
    found: dict[ObjectRef, None] = {}
    for published in filter(None, places):
        namespace, _, name = published.pod.partition("/")
        uid = kubeletpaths.read(published.path).pod_uid
        if name and uid:
            found[ObjectRef(POD, namespace, name, uid)] = None
    return list(found)


def _volume(volume_id: str) -> list[ObjectRef]:
    """Give the PersistentVolume that a provisioner made: it has the name of the volume."""
    name = _name(VolumeId, volume_id)
    return [ObjectRef(PERSISTENT_VOLUME, "", name)] if uid_in(name) else []


def _snapshot(message: csi.CreateSnapshotRequest) -> list[ObjectRef]:
    name = message.parameters.get(SNAPSHOT_NAME)
    namespace = message.parameters.get(SNAPSHOT_NAMESPACE)
    return [ObjectRef(SNAPSHOT, namespace, name, uid_in(message.name))] if name and namespace else []


def _content(snapshot_id: str) -> list[ObjectRef]:
    """Give the VolumeSnapshotContent: its controller names it, as its snapshot, after the VolumeSnapshot."""
    uid = uid_in(_name(SnapshotId, snapshot_id))
    return [ObjectRef(SNAPSHOT_CONTENT, "", f"snapcontent-{uid}")] if uid else []


def _name(kind: type[VolumeId | SnapshotId], text: str) -> str:
    try:
        return kind.parse(text).name
    except MalformedId:
        return ""
