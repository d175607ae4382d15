"""Changes that an RPC asks for: they run to their end, also when the caller has gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from katacsi.rpc.calls import current_call
from katacsi.rpc.status import facts_of, words_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from katacsi.aio import Shielded

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Changes:
    """Runs what an RPC changes as a task that no cancellation reaches.

    The caller of a cancelled RPC is answered at once. When the change ends later, the log says how: the
    caller's retry will meet the result.
    """

    def __init__(self, shielded: Shielded) -> None:
        self._shielded = shielded

    async def run(self, change: Coroutine[Any, Any, T]) -> T:
        """Await a change; when the caller leaves, the change goes on."""
        left_alone = False

        async def whole() -> T:
            try:
                result = await change
            except Exception as error:
                if left_alone and (call := current_call.get(None)):
                    log.warning(
                        "failed after its caller had left",
                        error=words_of(error, call),
                        **facts_of(error, call),
                    )
                raise
            if left_alone:
                log.info("finished after its caller had left")
            return result

        try:
            return await self._shielded.run(whole())
        except asyncio.CancelledError:
            left_alone = True
            raise
