"""One tree of errors; each class says what it means, and whether the same call can succeed later.

A message names the object, the fact and the remedy. No gRPC word occurs here: `katacsi.rpc.status` is the
only place that turns a class into a status code.
"""

from __future__ import annotations

from typing import ClassVar


class KatacsiError(Exception):
    """Anything that katacsi itself refuses or could not do.

    Attributes:
        retry_helps: whether repeating the unchanged call may succeed without a person doing something.
    """

    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# -- the caller's request ------------------------------------------------------------------------------


class InvalidRequest(KatacsiError):
    """A field of the request is missing, malformed or unknown; nothing was looked at or changed.

    Args:
        field: the field as its writer knows it, such as "parameters[lvm.katacsi.io/type]".
        fact: what is wrong with it, and what is legal.
    """

    def __init__(self, field: str, fact: str) -> None:
        super().__init__(f"{field}: {fact}")
        self.field = field


class SizeOutOfRange(KatacsiError):
    """No size exists that meets the request (limit below minimum, filesystem minimum, source size)."""


class NotFound(KatacsiError):
    """The volume, snapshot or path was proven absent. Never raised for "could not look"."""


class AlreadyExists(KatacsiError):
    """The name or path is taken by something the request does not describe."""


class InvalidPageToken(KatacsiError):
    """A list token that this driver did not give out, or that is stale; start again without one."""


# -- the state of the world ----------------------------------------------------------------------------


class OperationPending(KatacsiError):
    """Another call works on the same volume or snapshot; it will be over by the time of a retry."""

    retry_helps = True


class StillWorking(OperationPending):
    """Work that takes longer than a call goes on, or goes on with the next call: come again."""


class Precondition(KatacsiError):
    """The object is in a state that rules the call out until a person or another call changes it."""


class VolumeInUse(Precondition):
    """The volume (or its device) is staged, published, mounted or held open."""


class DataLossAlarm(Precondition):
    """Facts and device differ on whether there is data: one of them lost it. Nothing was written."""


class ForeignContent(Precondition):
    """Data that this driver did not put there, where it would have to write. Nothing was written."""


class Unsupported(Precondition):
    """The pool that holds the object cannot do this; the message names pools or settings that can."""


class NotPermitted(Precondition):
    """The Kubernetes API does not let the driver do it: its token or an RBAC rule is missing."""


class OutOfSpace(KatacsiError):
    """The pool has no room, or the volume cannot be made on this node; another node may do."""

    retry_helps = True


class WrongNode(OutOfSpace):
    """The volume has to be on another node, whose provisioner makes it; nothing is wrong here."""


class Unavailable(KatacsiError):
    """Something that is needed cannot be asked now (shutting down, API server away); retry."""

    retry_helps = True


# -- the host ------------------------------------------------------------------------------------------


class HostError(KatacsiError):
    """A tool or a kernel call failed; its own words are in the message. Facts were left as they are."""

    retry_helps = True


class NotProvenSound(HostError):
    """A filesystem that nobody may mount before a check says that it is whole; a retry begins with one."""


class Damaged(NotProvenSound):
    """A filesystem has faults that only a person can decide about; nothing was changed by guess."""

    retry_helps = False


class CorruptRecord(HostError):
    """A record on disk does not parse. It concerns that one object; nothing was deleted or guessed."""

    retry_helps = False


class PoolUnavailable(HostError):
    """A pool's storage is missing, not mounted, read-only or not the one that was set up."""


class PoolNotSetUp(PoolUnavailable):
    """A pool that may only be looked at was never used; the first `katacsi serve` sets it up."""


class SettingsError(KatacsiError):
    """The configuration cannot be used; the message names the key, the value and what is legal."""
