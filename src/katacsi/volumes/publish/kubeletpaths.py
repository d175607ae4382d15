"""Whose volume the kubelet means by a target path: the pod's UID and the PersistentVolume are in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Source: kubernetes, pkg/volume/csi/csi_mounter.go (GetPath) and csi_block.go (getPublishPath).
_FORMS: Final = (
    re.compile(r"/pods/(?P<pod>[^/]+)/volumes/kubernetes\.io~csi/(?P<pv>[^/]+)/mount/?\Z"),
    re.compile(r"/plugins/kubernetes\.io/csi/volumeDevices/publish/(?P<pv>[^/]+)/(?P<pod>[^/]+)/?\Z"),
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a target path says of its user; both are empty where it is not a path of the kubelet's.

    Attributes:
        pod_uid: the UID of the pod.
        pv: the name of the PersistentVolume.
    """

    pod_uid: str = ""
    pv: str = ""


def read(target: str) -> Claimed:
    """Read a target path."""
    for form in _FORMS:
        if found := form.search(target):
            return Claimed(found["pod"], found["pv"])
    return Claimed()
