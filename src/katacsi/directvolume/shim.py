"""What a Kata shim can be asked about one volume, and what it can say."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Dialect(enum.Enum):
    """Which runtime a shim belongs to; the two speak differently on the same kind of socket."""

    GO = "go"
    RUST = "rust"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox whose shim answers.

    Attributes:
        id: its name, which is that of its folders too.
        dialect: how its shim wants to be asked.
        socket: where its shim listens.
        guest_paths: where its guest may have the volume mounted; only runtime-rs has to be told, and none is
            proven before its numbers are seen.
    """

    id: str
    dialect: Dialect
    socket: Path
    guest_paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"sandbox {self.id} ({self.dialect.value})"


@dataclass(frozen=True, slots=True)
class GuestStats:
    """How full a volume is, by the guest's own count.

    `available` is what is free, blocks reserved for root included: the agent takes f_bfree.
    """

    total_bytes: int
    available_bytes: int
    used_bytes: int
    total_inodes: int
    available_inodes: int
    used_inodes: int


class ResizeOutcome(enum.Enum):
    """What came of telling a guest that its volume has grown."""

    #: No live shim was found. That is no proof that no guest holds the device: runtime-rs leaves no id.
    NO_LIVE_SANDBOX = "no live sandbox"
    #: There is a live sandbox and its runtime cannot resize, as all of stock Kata: the agent of every release
    #: to date answers UNIMPLEMENTED. The guest sees the new size after the pod's next start.
    UNSUPPORTED = "unsupported"
    #: A shim gave no answer that says anything about this volume. Nothing may be built on it.
    UNKNOWN = "unknown"
    #: The guest's filesystem has the new size.
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Resizing:
    """What came of it, and what the shims that did not do it said, one line each."""

    outcome: ResizeOutcome
    reasons: tuple[str, ...] = ()


class ShimClient(Protocol):
    """What a shim is asked about one device of its sandbox."""

    async def stats(self, sandbox: Sandbox, device: str) -> GuestStats:
        """Ask how full the filesystem on a device is.

        Raises:
            Unavailable: there is no answer, or none that is certainly about this device; it says why.
        """

    async def resize(self, sandbox: Sandbox, device: str, size_bytes: int) -> None:
        """Have the guest's filesystem fill a device that has grown to `size_bytes`.

        Raises:
            Unsupported: the runtime says that it cannot do this.
            Unavailable: as `stats`; what happened in the guest is not known.
        """
