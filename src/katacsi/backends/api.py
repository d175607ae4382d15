"""The contract between katacsi and a storage backend: a public interface.

Authors need `katacsi.backends.tools`, `katacsi.errors` and `katacsi.testing` besides: what is public stands
in docs/backend-contract.md.

A backend turns one pool's settings into block devices. It speaks frozen dataclasses, never protobuf, and
knows nothing of filesystems, mounts or Kata. The workflows call it as the kubelet does: repeatedly, and
again after a crash at any point; for one object they never call it twice at the same time.

Rules every method keeps (and `katacsi.testing.BackendConformance` checks):

* it states a wished end: done already is success, half done is finished or undone;
* `None` and "absent" are said only on proof; anything unsure raises;
* it raises classes of `katacsi.errors`, whose messages name the object, the fact and the remedy;
* nothing lasting is kept in process memory.
"""

from typing import Final

from katacsi.backends.calls import BackendCall, begin_call, present_call
from katacsi.backends.examination import (
    BackendCheck,
    BackendChecks,
    Examination,
    Examined,
    ExaminedPool,
    Surroundings,
)
from katacsi.backends.facts import Facts, FormatState
from katacsi.backends.protocols import (
    ENTRY_POINT_GROUP,
    Backend,
    BackendFactory,
    Copying,
    Counting,
    Fencing,
    Growing,
    Identifying,
    OnNode,
    Overcommitting,
    Reserving,
    Snapshotting,
    Storage,
    features_of,
)
from katacsi.backends.stopping import StopSignal
from katacsi.backends.values import (
    UNREMEMBERED,
    Attachment,
    Capacity,
    CreateRequest,
    Device,
    Features,
    Node,
    Page,
    PoolContext,
    Role,
    Scope,
    Snapshot,
    Volume,
)
from katacsi.model import Condition, ContentSource, SizeRange, SnapshotId, VolumeId

#: The version of the contract: (major, minor). A higher minor has more, a higher major something else.
CONTRACT: Final = (1, 0)

__all__ = [
    "CONTRACT",
    "ENTRY_POINT_GROUP",
    "UNREMEMBERED",
    "Attachment",
    "Backend",
    "BackendCall",
    "BackendCheck",
    "BackendChecks",
    "BackendFactory",
    "Capacity",
    "Condition",
    "ContentSource",
    "Copying",
    "Counting",
    "CreateRequest",
    "Device",
    "Examination",
    "Examined",
    "ExaminedPool",
    "Facts",
    "Features",
    "Fencing",
    "FormatState",
    "Growing",
    "Identifying",
    "Node",
    "OnNode",
    "Overcommitting",
    "Page",
    "PoolContext",
    "Reserving",
    "Role",
    "Scope",
    "SizeRange",
    "Snapshot",
    "SnapshotId",
    "Snapshotting",
    "StopSignal",
    "Storage",
    "Surroundings",
    "Volume",
    "VolumeId",
    "begin_call",
    "features_of",
    "present_call",
]
