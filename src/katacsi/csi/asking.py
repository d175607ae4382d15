"""What backends may know of a call: its secrets, and how long its caller waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from katacsi.backends.api import BackendCall, begin_call

if TYPE_CHECKING:
    from katacsi.rpc.calls import Call


def let_backends_ask(call: Call) -> None:
    """Make a call, whose message has come, the one that backends are told of in its task."""
    remaining = None if call.deadline is None else call.deadline.time_remaining()
    begin_call(
        BackendCall(
            secrets=getattr(call.message, "secrets", None) or {},
            deadline=None if remaining is None else time.monotonic() + remaining,
        )
    )
