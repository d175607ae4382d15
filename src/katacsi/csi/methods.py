"""What the transport is told of CSI: its methods, what their calls are about, and which fields are secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi._gen.csi import v1 as csi
from katacsi._gen.secrets import SECRET_FIELDS
from katacsi.rpc.calls import methods_of
from katacsi.rpc.redact import Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.rpc.calls import Method

#: Every method of CSI's five services.
METHODS: Final[Mapping[str, Method]] = methods_of(
    # The generated classes serve without being derived from: each method of theirs answers UNIMPLEMENTED.
    (
        csi.IdentityBase(),
        csi.ControllerBase(),
        csi.NodeBase(),
        csi.GroupControllerBase(),
        csi.SnapshotMetadataBase(),
    ),
    subjects=("volume_id", "snapshot_id", "source_volume_id", "name", "node_id"),
    chatty={"Probe", "NodeGetCapabilities", "NodeGetVolumeStats", "GetCapacity"},
)

#: CSI marks its secret fields in its proto file. Not marked, but a network volume's publish context carries
#: what lets a node attach it, beside addresses that are no secret.
REDACTION: Final = Redaction(SECRET_FIELDS, mixed=("publish_context",))
