"""Which refused calls people are told of by an Event, and by which word; on which object: see `subjects`.

The callers write Events of their own with the same text (ProvisioningFailed, FailedMount). These have a
reason for each kind of refusal, which alerts and people can tell apart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog

from katacsi import errors
from katacsi.csi.subjects import subjects_of
from katacsi.errors import HostError, KatacsiError, OutOfSpace, WrongNode

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
    errors.PoolUnavailable: "PoolUnusable",
    errors.HostError: "HostFailed",
}

#: What a pod leaves may be held for seconds after its end, and the callers come again: nobody has to act.
_TEARDOWN: Final = frozenset({"NodeUnpublishVolume", "NodeUnstageVolume", "DeleteVolume"})
_PATIENCE_S: Final = 30.0
#: A refusal that was not repeated for so long is over. The kubelet waits for two minutes at most.
_OVER_S: Final = 600.0
_MOST_REMEMBERED: Final = 512


class Teller:
    """Tells people of the calls that were refused until somebody acts.

    A refused teardown is told once it has been refused for half a minute, and so is what a retry may mend.

    Args:
        tell: takes the object, the call, the reason and the words; see `katacsi.volumes.cluster.Cluster`.
        marks: know which pods have a volume.
        now: the time in seconds, of any clock that never goes back.
    """

    def __init__(
        self,
        tell: Callable[[ObjectRef, str, str, str], None],
        marks: Marks,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._marks = marks
        self._now = now
        #: When a call that may pass by itself was refused first and last.
        self._refused: OrderedDict[tuple[str, ObjectRef], tuple[float, float]] = OrderedDict()

    def __call__(self, call: Call, error: Exception, words: str) -> None:
        """Tell of one refused call, if somebody has to act on it and is known to look at an object."""
        try:
            if reason := reason_of(error):
                for about in subjects_of(call.message, self._marks):
                    if not _may_pass(call, error) or self._lasts(call.method.name, about):
                        self._tell(about, call.method.name, reason, words)
        except Exception:
            log.exception("a refusal could not be told")  # the call's answer is not to suffer

    def _lasts(self, method: str, about: ObjectRef) -> bool:
        now = self._now()
        first, last = self._refused.pop((method, about), (now, now))
        if now - last > _OVER_S:
            first = now
        self._refused[method, about] = (first, now)
        while len(self._refused) > _MOST_REMEMBERED:
            self._refused.popitem(last=False)
        return now - first >= _PATIENCE_S


def _may_pass(call: Call, error: Exception) -> bool:
    return call.method.name in _TEARDOWN or (isinstance(error, HostError) and error.retry_helps)


def reason_of(error: Exception) -> str:
    """Give the word for an error that a person has to act on; empty for what passes by itself.

    No room, a pool without its disk and a tool that fails pass, too, but mostly because somebody mended it.
    """
    if not isinstance(error, KatacsiError) or isinstance(error, WrongNode):
        return ""
    if error.retry_helps and not isinstance(error, OutOfSpace | HostError):
        return ""
    return next((REASONS[family] for family in type(error).__mro__ if family in REASONS), "")
