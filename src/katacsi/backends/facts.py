"""The facts of a volume: what is known of its bytes, kept next to them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace


class FormatState(enum.Enum):
    """How far a volume's filesystem has come."""

    UNFORMATTED = "unformatted"  #: the backend left a blank device
    FORMATTING = "formatting"  #: mkfs with the recorded type and UUID may have begun
    FORMATTED = "formatted"  #: there is a filesystem; never mkfs again


@dataclass(frozen=True, slots=True)
class Facts:
    """What must outlive everything but the volume itself; kept next to the data, changed transactionally.

    Attributes:
        format: how far the filesystem has come.
        fs_type: the filesystem that was asked for, from the moment formatting began.
        fs_uuid: the UUID that mkfs was or will be given, in the 36-digit form.
        guest_written: a Kata guest had the raw device; the host kernel no longer trusts its filesystem.
        inherited_uuid: the filesystem is a copy that may still carry its source's UUID.
        pending_size: the device grew to this many bytes, the filesystem in the guest did not; 0 if none.
    """

    format: FormatState = FormatState.UNFORMATTED
    fs_type: str = ""
    fs_uuid: str = ""
    guest_written: bool = False
    inherited_uuid: bool = False
    pending_size: int = 0

    def with_(self, **changes: object) -> Facts:
        """Give these facts with some of them changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # checked by the dataclass's own tests

    def of_copy(self) -> Facts:
        """Give the facts that a volume starts with when it is a copy of one with these.

        What was said about the bytes stays true of their copy; what was said about a guest that has the
        device does not.
        """
        formatted = self.format is not FormatState.UNFORMATTED
        return replace(self, inherited_uuid=formatted, pending_size=0)
