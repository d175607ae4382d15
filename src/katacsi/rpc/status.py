"""Which gRPC status an error becomes: one table, read nowhere else than in the interceptor.

The codes are those of the CSI specification's error tables; what a caller does with a code is said there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpclib.const import Status

from katacsi import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    for family in type(error).__mro__:
        if status := TABLE.get(family):
            return status
    return Status.INTERNAL


def cut(message: str) -> str:
    """Give a message that fits: at most `MAX_MESSAGE_BYTES` of UTF-8, no half character at its end."""
    raw = message.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[: MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
