"""What a caller reads of an error: its gRPC status and its words. The interceptor alone asks here.

The codes are those of the CSI specification's error tables; what a caller does with a code is said there.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from katacsi import errors
from katacsi.errors import KatacsiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.rpc.calls import Call

#: The nearest base class wins, so a subclass needs a line only where its code differs.
TABLE: Final[Mapping[type[Exception], Status]] = {
    errors.InvalidRequest: Status.INVALID_ARGUMENT,
    errors.SizeOutOfRange: Status.OUT_OF_RANGE,
    errors.NotFound: Status.NOT_FOUND,
    errors.AlreadyExists: Status.ALREADY_EXISTS,
    errors.InvalidPageToken: Status.ABORTED,
    errors.OperationPending: Status.ABORTED,
    errors.Precondition: Status.FAILED_PRECONDITION,
    errors.OutOfSpace: Status.RESOURCE_EXHAUSTED,
    errors.Unavailable: Status.UNAVAILABLE,
    errors.HostError: Status.INTERNAL,
    errors.Damaged: Status.FAILED_PRECONDITION,
    # The pool may come back (a disk that is not mounted yet): for the sidecars this code is not final.
    errors.PoolUnavailable: Status.UNAVAILABLE,
    errors.SettingsError: Status.FAILED_PRECONDITION,
    # A step's own limit. The sidecars take this code as "perhaps still going on" and ask again.
    TimeoutError: Status.DEADLINE_EXCEEDED,
}

#: Beyond this a message is cut: it travels in a header, and events and conditions show its beginning only.
MAX_MESSAGE_BYTES: Final = 4096


def status_of(error: Exception) -> Status:
    """Give the status of an error; INTERNAL where no class of its family is in the table."""
    if isinstance(error, GRPCError):
        return error.status
    for family in type(error).__mro__:
        if status := TABLE.get(family):
            return status
    return Status.INTERNAL


def words_of(error: Exception, call: Call) -> str:
    """Give an error's message as the call's caller, and the log, may read it."""
    name = call.method.name
    if isinstance(error, KatacsiError):
        return cut(call.scrubbed(error.message))
    if isinstance(error, GRPCError):
        return error.message or f"{name} is not offered here"
    if isinstance(error, TimeoutError):
        return f"{name}: a step took too long; the call may be repeated"
    # What went wrong is for the log alone: an unforeseen text may say anything.
    return f"internal error in {name}; katacsi's log has more under request {call.id}"


def facts_of(error: Exception, call: Call) -> dict[str, object]:
    """Give what the log line of an error says besides.

    Whether the unchanged call may succeed later; where it may not, a person or another call has to do
    something first. Of an error that nobody foresaw, the traceback.
    """
    if isinstance(error, KatacsiError):
        return {"retry_helps": error.retry_helps}
    if isinstance(error, TimeoutError):
        return {"retry_helps": True}
    if isinstance(error, GRPCError):
        return {}
    # As text, made here: a renderer of tracebacks might print local variables, and secrets with them.
    return {"traceback": call.scrubbed("".join(traceback.format_exception(error)))}


def cut(message: str) -> str:
    """Give a message that fits: at most `MAX_MESSAGE_BYTES` of UTF-8, no half character at its end."""
    raw = message.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[: MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
