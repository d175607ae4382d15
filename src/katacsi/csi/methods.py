"""Every method of CSI's five services, by the path under which gRPC calls it, and how it is logged."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fields that say what a call is about.
_SUBJECTS: Final = ("volume_id", "snapshot_id", "source_volume_id", "name", "node_id")
#: Called every few seconds for each volume or process: their success is worth a line at debug only.
_CHATTY: Final = frozenset({"Probe", "NodeGetCapabilities", "NodeGetVolumeStats", "GetCapacity"})


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its bare name, the fields of its request that log lines carry, whether it is chatty."""

    name: str
    subjects: tuple[str, ...] = ()
    chatty: bool = False


#: What nobody knows. One name for all, since each would be a new label in the metrics.
UNKNOWN: Final = Method("unknown")


def _methods() -> dict[str, Method]:
    methods = {}
    # The generated classes serve without being derived from: each method of theirs answers UNIMPLEMENTED.
    for service in (
        csi.IdentityBase(),
        csi.ControllerBase(),
        csi.NodeBase(),
        csi.GroupControllerBase(),
        csi.SnapshotMetadataBase(),
    ):
        for path, handler in service.__mapping__().items():
            name = path.rpartition("/")[2]
            present = {field.name for field in fields(handler.request_type)}
            subjects = tuple(field for field in _SUBJECTS if field in present)
            methods[path] = Method(name, subjects, name in _CHATTY)
    return methods


METHODS: Final[Mapping[str, Method]] = _methods()
