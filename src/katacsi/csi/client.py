"""A small CSI client over a unix socket, for the demo, the CLI and the tests."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from grpclib.client import Channel
from grpclib.encoding.proto import ProtoCodec

from katacsi._gen.csi import v1 as csi
from katacsi.rpc.client import RpcError, Surfacing

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["Client", "RpcError", "csi"]


class _Identity(Surfacing, csi.IdentityStub):
    pass


class _Controller(Surfacing, csi.ControllerStub):
    pass


class _Node(Surfacing, csi.NodeStub):
    pass


class _GroupController(Surfacing, csi.GroupControllerStub):
    pass


class Client:
    """The services of a driver; use it with `async with`.

    Args:
        path: the driver's socket.
        timeout_s: how long a call may take unless the call itself says otherwise.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60) -> None:
        self._channel = Channel(path=str(path), codec=ProtoCodec())  # see `katacsi.rpc.server`
        self.identity: csi.IdentityStub = _Identity(self._channel, timeout=timeout_s)
        self.controller: csi.ControllerStub = _Controller(self._channel, timeout=timeout_s)
        self.node: csi.NodeStub = _Node(self._channel, timeout=timeout_s)
        self.group_controller: csi.GroupControllerStub = _GroupController(self._channel, timeout=timeout_s)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the driver answers Probe, which it does when it is ready.

        Raises:
            RpcError: it did not, with what was wrong last.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                await self.identity.probe(csi.ProbeRequest(), timeout=max(end - time.monotonic(), 0.05))
            except RpcError:
                if time.monotonic() >= end:
                    raise
                await asyncio.sleep(0.02)
            else:
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
