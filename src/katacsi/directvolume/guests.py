"""What the guests of one volume are asked together: how full it is, and to grow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from katacsi.directvolume import proof
from katacsi.directvolume.shim import ResizeOutcome, Resizing
from katacsi.errors import Unavailable, Unsupported
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.directvolume.shim import GuestStats, Sandbox, ShimClient

#: What came of several guests is what came of the one that got least far.
_WORST_FIRST = (ResizeOutcome.UNSUPPORTED, ResizeOutcome.UNKNOWN, ResizeOutcome.DONE)


async def stats(client: ShimClient, live: Sequence[Sandbox], device: str) -> GuestStats:
    """Give how full a device is, from the first shim that can tell; one that hangs holds up no other.

    Raises:
        Unavailable: none can tell; the message has what each said.
    """
    asked = [asyncio.ensure_future(client.stats(sandbox, device)) for sandbox in live]
    reasons: list[str] = []
    try:
        for answered in asyncio.as_completed(asked):
            try:
                return await answered
            except (Unavailable, Unsupported) as error:
                reasons.append(error.message)
    finally:
        for question in asked:
            question.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise Unavailable(f"{device}: no guest tells how full it is: {'; '.join(sorted(reasons))}")


async def resize(client: ShimClient, live: Sequence[Sandbox], device: str, size_bytes: int) -> Resizing:
    """Have all guests grow their filesystem on a device to `size_bytes`; done is when each has."""
    answers = await asyncio.gather(*(_resized(client, sandbox, device, size_bytes) for sandbox in live))
    outcomes = {answer.outcome for answer in answers}
    return Resizing(
        next(outcome for outcome in _WORST_FIRST if outcome in outcomes),
        tuple(reason for answer in answers for reason in answer.reasons),
    )


async def _resized(client: ShimClient, sandbox: Sandbox, device: str, size_bytes: int) -> Resizing:
    """Have one guest grow its filesystem, and compare what it counts before and after."""
    seen = await off_loop(proof.on_device, device)
    before = await _counted(client, sandbox, device)
    try:
        await client.resize(sandbox, device, size_bytes)
    except Unsupported as error:
        return Resizing(ResizeOutcome.UNSUPPORTED, (error.message,))
    except Unavailable as error:
        return Resizing(ResizeOutcome.UNKNOWN, (error.message,))
    after = await _counted(client, sandbox, device)
    if seen and before and after and not seen.reached(size_bytes, before, after):
        reason = (
            f"{sandbox}: says that it grew {device} to {size_bytes} bytes, and counts {after.total_bytes} "
            f"after {before.total_bytes} before"
        )
        return Resizing(ResizeOutcome.UNKNOWN, (reason,))
    return Resizing(ResizeOutcome.DONE)


async def _counted(client: ShimClient, sandbox: Sandbox, device: str) -> GuestStats | None:
    try:
        return await client.stats(sandbox, device)
    except (Unavailable, Unsupported):
        return None
