"""The appliance's HTTP API, and what its answers mean to katacsi."""

from __future__ import annotations

from typing import Any

import aiohttp
from katacsi.errors import (
    AlreadyExists,
    HostError,
    NotFound,
    OperationPending,
    OutOfSpace,
    PoolUnavailable,
    Precondition,
    VolumeInUse,
)

# A call that hangs holds its volume's lock, so it has an end.
_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=5)

# What the appliance says in `error`, besides the status.
_ERRORS = {
    "no such volume": NotFound,
    "no such node": NotFound,
    "another node": VolumeInUse,
    "published": VolumeInUse,
    "other access": AlreadyExists,
    "name taken": AlreadyExists,
    "facts changed": OperationPending,
    "full": OutOfSpace,
}


class Client:
    """One session of requests; opened where the event loop runs."""

    def __init__(self, url: str, pool: str) -> None:
        self._url = url
        self._pool = pool
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready; open already is success."""
        if self._session is None:
            self._session = aiohttp.ClientSession(self._url, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Let go of connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """Make a request and give the answer.

        Raises:
            PoolUnavailable: no answer, or one of which nothing follows; a change may have been made.
            KatacsiError: what the appliance says.
        """
        if self._session is None:
            raise PoolUnavailable(f"pool {self._pool!r}: is not open")
        where = f"pool {self._pool!r}: {self._url}"
        try:
            async with self._session.request(method, path, json=body or None) as answer:
                content = await answer.json(content_type=None) if answer.status != 204 else None
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise PoolUnavailable(f"{where} does not answer ({error!r}); is the appliance up?") from error
        if status < 300:
            return content
        kind = content.get("error", "") if isinstance(content, dict) else ""
        words = content.get("words", "") if isinstance(content, dict) else ""
        if kind in _ERRORS:
            raise _ERRORS[kind](f"{where}: {words}")
        if status in (401, 403):
            raise Precondition(f"{where} does not let us ({status}); check the pool's credentials")
        if status == 400:
            raise HostError(f"{where} does not take the request: {words}")
        # A 404 that does not speak of a volume is a wrong address, and proves no volume absent.
        raise PoolUnavailable(f"{where} answers {status} to {method} {path} {words}; check the pool's `url`")
