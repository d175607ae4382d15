"""A grpclib server on a unix socket that ends politely: what runs is finished, what comes is sent away.

grpclib's own `close` cancels running calls, tells no client, and from Python 3.12 on waits for connections
that a kubelet never closes. The drain here touches private names of grpclib, hence its cap in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import structlog
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server
from hyperframe.frame import GoAwayFrame

from katacsi.rpc import endpoint
from katacsi.rpc.fast import hasten

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from grpclib._typing import IServable

    from katacsi.rpc.changes import Changes
    from katacsi.rpc.interceptor import Interceptor

log = structlog.get_logger(__name__)
# It notes each cancelled call, which the interceptor has noted already.
logging.getLogger("grpclib.server").setLevel(logging.WARNING)

#: How long closed connections may take to send what is still in their buffers.
_FLUSH_S = 1.0


async def _unknown(stream: object) -> None:
    del stream
    raise GRPCError(Status.UNIMPLEMENTED, "there is no method of that name here")


class _Methods(dict[str, Handler]):
    """The methods by path. One that nobody knows answers as an unsupported one does.

    grpclib's own answer lacks a content-type, which grpc-go reports as Unknown instead of Unimplemented.
    """

    _UNKNOWN = Handler(_unknown, Cardinality.UNARY_UNARY, None, None)

    def get(self, path: str, default: Any = None) -> Any:  # noqa: ANN401  # dict's signature
        return super().get(path, default) or self._UNKNOWN


class _Connection(H2Protocol):
    """A client's connection; it is in its server's set for as long as it lives."""

    transport: asyncio.Transport

    def __init__(self, made: H2Protocol, alive: set[_Connection]) -> None:
        super().__init__(made.handler, made.config, made.h2_config)
        self._alive = alive
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        super().connection_made(transport)
        hasten(self)
        self._alive.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._alive.discard(self)
        self._lost.set()

    def say_goodbye(self) -> None:
        """Tell the client that this connection takes no new calls.

        By hand: h2's own `close_connection` would end the running streams with it.
        """
        if self.transport.is_closing():
            return
        last = self.connection._connection.highest_inbound_stream_id  # noqa: SLF001
        self.transport.write(GoAwayFrame(stream_id=0, last_stream_id=last).serialize())

    async def end(self) -> None:
        """Close, once what is in its buffer is sent; a client that does not read is cut off."""
        self.connection.close()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._lost.wait()
        except TimeoutError:
            self.transport.abort()
            await self._lost.wait()


class DrainingServer(Server):
    """A server on a unix socket.

    Args:
        services: what it serves, such as `katacsi.csi.services`.
        interceptor: what stands around every call.
        changes: what a drain waits for, besides the calls.
    """

    def __init__(
        self, services: Collection[IServable], *, interceptor: Interceptor, changes: Changes
    ) -> None:
        # With its own choice grpclib imports google.rpc where that is installed, for 2 MiB and in vain.
        super().__init__(services, codec=ProtoCodec())
        self._mapping = _Methods(self._mapping)
        self._interceptor = interceptor
        self._changes = changes
        self._alive: set[_Connection] = set()
        self._socket: endpoint.Endpoint | None = None
        interceptor.listen_to(self)

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(super()._protocol_factory(), self._alive)

    async def listen(self, path: Path) -> None:
        """Serve on a unix socket.

        Raises:
            SettingsError: the path cannot be used; see `katacsi.rpc.endpoint.bind`.
        """
        self._socket = endpoint.bind(path)
        self._server = await self._loop.create_unix_server(self._protocol_factory, sock=self._socket.socket)
        self._server_closed_fut = self._loop.create_future()
        log.info("listening", socket=str(path))

    async def drain(self, grace_s: float) -> bool:
        """Stop: refuse new calls, finish running ones and their changes, close.

        Returns:
            Whether all came to their end within the grace. If not, the calls were cancelled, and the
            changes go on for as long as the process lives.
        """
        assert self._server is not None, "only a server that listens can be drained"
        assert self._socket is not None, "`listen` was not the one that started it"
        self._interceptor.refuse_new_calls("katacsi is shutting down; try again")
        self._server.close()
        self._socket.remove()
        for connection in self._alive:
            connection.say_goodbye()
        finished = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle()
        except TimeoutError:
            finished = False
            log.warning(
                "stopped with work unfinished", calls=len(self._running()), changes=len(self._changes)
            )
        self.close()
        # Before waiting for the listener: from 3.12 on that waits for its connections, too.
        await asyncio.gather(*(connection.end() for connection in self._alive))
        await self.wait_closed()
        return finished

    def _running(self) -> set[asyncio.Task[None]]:
        """Give the tasks of all calls that have not sent their last byte."""
        tasks = (task for handler in self._handlers for task in handler._tasks.values())  # noqa: SLF001
        return {task for task in tasks if not task.done()}

    async def _idle(self) -> None:
        # A call may start a change, and a change outlives its call: until neither is left.
        while (running := self._running()) or self._changes:
            if running:
                await asyncio.wait(running)
            await self._changes.drained()
