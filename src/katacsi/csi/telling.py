"""Which refused calls people are told of by an Event, and by which word; on which object: see `subjects`.

The callers write Events of their own with the same text (ProvisioningFailed, FailedMount). These have a
reason for each kind of refusal, which alerts and people can tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from katacsi import errors
from katacsi.csi.subjects import subjects_of
from katacsi.errors import KatacsiError, OutOfSpace, WrongNode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from katacsi.kube.objects import ObjectRef
    from katacsi.rpc.calls import Call
    from katacsi.volumes.publish.marks import Marks

log = structlog.get_logger(__name__)

#: The nearest base class wins, as in `katacsi.rpc.status`.
REASONS: Final[Mapping[type[Exception], str]] = {
    errors.InvalidRequest: "InvalidRequest",
    errors.SizeOutOfRange: "SizeOutOfRange",
    errors.NotFound: "VolumeNotFound",
    errors.AlreadyExists: "NameTaken",
    errors.Precondition: "NotPossible",
    errors.VolumeInUse: "VolumeInUse",
    errors.DataLossAlarm: "DataLossAlarm",
    errors.ForeignContent: "ForeignContent",
    errors.Unsupported: "NotSupported",
    errors.NotPermitted: "NotPermitted",
    errors.OutOfSpace: "NoRoom",
    errors.Damaged: "FilesystemDamaged",
    errors.CorruptRecord: "RecordDamaged",
    errors.SettingsError: "SettingsWrong",
}


class Teller:
    """Tells people of the calls that were refused until somebody acts.

    Args:
        tell: takes the object, the call, the reason and the words; see `katacsi.volumes.cluster.Cluster`.
        marks: know which pods have a volume.
    """

    def __init__(self, tell: Callable[[ObjectRef, str, str, str], None], marks: Marks) -> None:
        self._tell = tell
        self._marks = marks

    def __call__(self, call: Call, error: Exception, words: str) -> None:
        """Tell of one refused call, if somebody has to act on it and is known to look at an object."""
        try:
            if reason := reason_of(error):
                for about in subjects_of(call.message, self._marks):
                    self._tell(about, call.method.name, reason, words)
        except Exception:
            log.exception("a refusal could not be told")  # the call's answer is not to suffer


def reason_of(error: Exception) -> str:
    """Give the word for an error that a person has to act on; empty for what passes by itself.

    No room passes, too, but mostly because somebody made some.
    """
    if not isinstance(error, KatacsiError) or isinstance(error, WrongNode):
        return ""
    if error.retry_helps and not isinstance(error, OutOfSpace):
        return ""
    return next((REASONS[family] for family in type(error).__mro__ if family in REASONS), "")
