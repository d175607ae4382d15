"""What a backend may ask of the call that it works for: its secrets, and how long the caller waits.

Most backends need neither, so no method is handed them but `attach`, which is given the secrets. They are
those of the running call, in its coroutines and in the steps that these run by `off_loop`.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class BackendCall:
    """A call as its caller made it.

    Attributes:
        secrets: by key, those of the request (CSI: create, delete, publish, expand, snapshot, stage). They
            are for this call: never stored, never logged, never part of a message.
        deadline: the moment at which the caller gives up, on the clock of `time.monotonic`; None: not known.
    """

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadline: float | None = None

    def remaining_s(self) -> float | None:
        """Give the seconds for which the caller still waits, at least 0; None: as long as it takes.

        The call is not ended at that moment. Who cannot end in time does best to keep what is done, and to
        raise `StillWorking`: the caller comes again.
        """
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


_NOBODYS: Final = BackendCall()
_present: ContextVar[BackendCall] = ContextVar("katacsi_backend_call", default=_NOBODYS)


def present_call() -> BackendCall:
    """Give the call that is being worked for; outside of one, a call without secrets and deadline."""
    return _present.get()


def begin_call(call: BackendCall) -> None:
    """Say which call the running task works for from here on; for katacsi's door, and for tests."""
    _present.set(call)
