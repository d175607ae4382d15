"""The volume condition, as CSI had it up to release 1.12.

Release 1.13 reserved its numbers and brought VolumeHealth instead, so the generated messages no longer have
it, while the kubelets and sidecars in the field still ask for it. A message keeps fields it does not know and
sends them on: that is how the condition gets into today's messages.

Source: csi.proto of release 1.12, VolumeCondition {bool abnormal = 1; string message = 2;}, field 2 of
NodeGetVolumeStatsResponse and of both VolumeStatus messages; capabilities 11 (controller) and 4 (node).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import betterproto2

from katacsi._gen.csi import v1 as csi

if TYPE_CHECKING:
    from katacsi.model import Condition

CONTROLLER_CAPABILITY: Final = csi.ControllerServiceCapabilityRpcType(11)
NODE_CAPABILITY: Final = csi.NodeServiceCapabilityRpcType(4)

_ABNORMAL: Final = b"\x08\x01"  # field 1, varint, true; false is not sent
_MESSAGE: Final = b"\x12"  # field 2, length-delimited
_CONDITION: Final = b"\x12"  # field 2 of the message around it, length-delimited


def encode(condition: Condition) -> bytes:
    """Give the condition as the field of any of the three messages that carried it."""
    text = condition.message.encode()
    inner = (_ABNORMAL if condition.abnormal else b"") + _MESSAGE + _sized(text)
    return _CONDITION + _sized(inner)


# Nearly all volumes share one condition, and nobody changes a message once it is rendered.
@lru_cache(maxsize=128)
def listed(condition: Condition) -> csi.ListVolumesResponseVolumeStatus:
    """Give the status of an entry of ListVolumes."""
    return csi.ListVolumesResponseVolumeStatus.parse(encode(condition))


def got(condition: Condition) -> csi.ControllerGetVolumeResponseVolumeStatus:
    """Give the status in an answer of ControllerGetVolume."""
    return csi.ControllerGetVolumeResponseVolumeStatus.parse(encode(condition))


def stats(condition: Condition) -> csi.NodeGetVolumeStatsResponse:
    """Give an answer of NodeGetVolumeStats that has only a condition yet."""
    return csi.NodeGetVolumeStatsResponse.parse(encode(condition))


def _sized(data: bytes) -> bytes:
    return betterproto2.encode_varint(len(data)) + data
