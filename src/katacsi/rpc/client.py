"""What generated client stubs need to fail in one way only."""

from __future__ import annotations

from typing import Any

from betterproto2.grpclib import ServiceStub
from grpclib.exceptions import GRPCError, StreamTerminatedError


class RpcError(Exception):
    """A call that was answered with something else than OK, or not at all.

    Attributes:
        code: the name of the gRPC code, such as `NOT_FOUND`.
        message: the server's words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Surfacing(ServiceStub):
    """Derive from this before a generated stub: its calls fail with `RpcError` and nothing else."""

    async def _unary_unary(self, route: str, *request: Any, **options: Any) -> Any:  # noqa: ANN401  # as typed there
        try:
            return await super()._unary_unary(route, *request, **options)
        except GRPCError as error:
            raise RpcError(error.status.name, error.message or "") from error
        except TimeoutError as error:
            raise RpcError("DEADLINE_EXCEEDED", f"no answer to {route} in time") from error
        except (OSError, StreamTerminatedError) as error:
            raise RpcError("UNAVAILABLE", f"{route}: {error}") from error
