"""What happens around every RPC: its log context, its one log line, its metrics, its status."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import structlog
from grpclib.const import Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from h2.exceptions import StreamClosedError
from structlog.contextvars import bind_contextvars

from katacsi import tracing
from katacsi.errors import InvalidRequest, OperationPending, Unavailable
from katacsi.rpc.calls import UNKNOWN, Call, current_call
from katacsi.rpc.status import facts_of, status_of, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from grpclib._typing import IEventsTarget, IServerMethodFunc
    from grpclib.server import Stream

    from katacsi.metrics import Metrics
    from katacsi.rpc.calls import Method
    from katacsi.rpc.redact import Redaction
    from katacsi.tracing import Span

log = structlog.get_logger(__name__)

#: Part of an ordinary day: the caller comes again, nobody has to look.
_ORDINARY: Final = frozenset({Status.ABORTED, Status.CANCELLED, Status.UNAVAILABLE, Status.UNIMPLEMENTED})

#: What OpenTelemetry calls the gRPC status code of a span.
_CODE: Final = "rpc.grpc.status_code"


class Interceptor:
    """Stands around every method of the servers it listens to.

    Args:
        metrics: where calls are counted.
        methods: the methods of those servers by path; see `katacsi.rpc.calls.methods_of`.
        redaction: what of their messages is secret.
        received: told of every call whose message has come, in the task that answers it.
        refused: told of every call that fails, with the error and the words that its caller reads; it must
            not fail, and not wait.
    """

    def __init__(
        self,
        metrics: Metrics,
        methods: Mapping[str, Method],
        redaction: Redaction,
        *,
        received: Callable[[Call], None] | None = None,
        refused: Callable[[Call, Exception, str], None] | None = None,
    ) -> None:
        self._metrics = metrics
        self._methods = methods
        self._redaction = redaction
        self._received = received
        self._refused = refused
        self._refusal = ""
        self._process = secrets.token_hex(2)
        self._numbers = count(1)

    @cached_property
    def _log(self) -> Any:  # noqa: ANN401  # structlog's loggers have no common type
        """The log as set up at the first call; looked up each time, a call's logging takes a third longer."""
        return log.bind()

    def listen_to(self, server: IEventsTarget) -> None:
        """Take part in every call that this server gets from now on."""
        listen(server, RecvRequest, self._on_request)

    def refuse_new_calls(self, reason: str) -> None:
        """Answer every call that comes from now on with UNAVAILABLE; running ones go on."""
        self._refusal = reason

    async def _on_request(self, event: RecvRequest) -> None:
        call = Call(
            self._methods.get(event.method_name, UNKNOWN),
            f"{self._process}-{next(self._numbers)}",
            self._redaction,
            event.deadline,
        )
        span = tracing.server_span(
            "" if call.method is UNKNOWN else event.method_name.removeprefix("/"),
            event.metadata,
            only_within=call.method.chatty,
        )
        method = self._refuse if self._refusal else event.method_func
        event.method_func = partial(self._run, method, call, span)

    async def _refuse(self, stream: object) -> None:
        del stream
        raise Unavailable(self._refusal)

    async def _run(
        self,
        method: IServerMethodFunc,
        call: Call,
        span: AbstractContextManager[Span],
        stream: Stream[Any, Any],
    ) -> None:
        """Run a method to its answer, within its span."""
        with span as call.span:
            if call.span.trace_id:
                bind_contextvars(trace=call.span.trace_id)
            await self._answer(method, call, stream)

    async def _answer(self, method: IServerMethodFunc, call: Call, stream: Stream[Any, Any]) -> None:
        """Run a method to its answer.

        Raises:
            GRPCError: and nothing else but a cancellation; grpclib makes it the answer's status.
        """
        started = time.perf_counter()
        bind_contextvars(rpc=call.method.name, request=call.id)
        current_call.set(call)
        self._metrics.rpcs_in_flight.inc()
        # Every answer is raised "from None": should grpclib log it, no text that is chained to it is logged.
        try:
            await method(_Tapped(stream, call, self._log, self._received))  # type: ignore[arg-type]  # all of it that generated code uses
        except asyncio.CancelledError:
            late = call.deadline is not None and call.deadline.time_remaining() <= 0
            self._ended(call, started, Status.DEADLINE_EXCEEDED if late else Status.CANCELLED)
            raise
        except StreamClosedError:
            self._ended(call, started, Status.CANCELLED)
            raise GRPCError(Status.CANCELLED) from None
        except Exception as error:  # noqa: BLE001  # the one place where every error becomes a status
            status, words = status_of(error), words_of(error, call)
            call.span.tell({"error.type": type(error).__name__})
            call.span.fail(words)
            self._ended(call, started, status, error=words, **facts_of(error, call))
            if isinstance(error, OperationPending):
                self._metrics.pending_refusals.labels(call.method.name).inc()
            if self._refused is not None:
                self._refused(call, error, words)
            raise GRPCError(status, words) from None
        else:
            # After the answer: that is on its way once this turn of the event loop is over.
            seconds = time.perf_counter() - started
            call.span.tell({_CODE: Status.OK.value})
            asyncio.get_running_loop().call_soon(self._note, call, seconds, Status.OK)
        finally:
            self._metrics.rpcs_in_flight.dec()

    def _ended(self, call: Call, started: float, status: Status, **facts: object) -> None:
        call.span.tell({_CODE: status.value})
        self._note(call, time.perf_counter() - started, status, **facts)

    def _note(self, call: Call, seconds: float, status: Status, **facts: object) -> None:
        """Count a call and write its log line."""
        self._metrics.rpc_seconds.labels(call.method.name, status.name).observe(seconds)
        self._log.log(
            _level(call.method, status), "answered", code=status.name, seconds=round(seconds, 6), **facts
        )


class _Tapped:
    """The stream as generated code sees it: notes the message that came in."""

    __slots__ = ("_call", "_log", "_received", "_stream", "send_message")

    def __init__(
        self,
        stream: Stream[Any, Any],
        call: Call,
        log: Any,  # noqa: ANN401  # structlog's
        received: Callable[[Call], None] | None,
    ) -> None:
        self._stream = stream
        self._received = received
        self._call = call
        self._log = log
        self.send_message = stream.send_message

    async def recv_message(self) -> object:
        """Read the request.

        Raises:
            InvalidRequest: what came is no such message.
        """
        try:
            message = await self._stream.recv_message()
        except NotImplementedError:
            raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported") from None
        except Exception as error:  # noqa: BLE001  # a decoder's, of any kind; its text quotes what it read
            raise InvalidRequest("request", f"not a readable message ({type(error).__name__})") from None
        if message is None:
            raise InvalidRequest("request", "the call came without a message")
        self._call.message = message
        if self._received is not None:
            self._received(self._call)
        subjects = {
            name: value
            for name in self._call.method.subjects
            if (value := getattr(message, name)) and isinstance(value, str)
        }
        if subjects:
            bind_contextvars(**subjects)
            self._call.span.tell({f"katacsi.{name}": value for name, value in subjects.items()})
        if self._log.is_enabled_for(logging.DEBUG):
            self._log.debug("asked", message=self._call.redaction.describe(message))
        return message


def _level(method: Method, status: Status) -> int:
    if status is Status.OK:
        return logging.DEBUG if method.chatty else logging.INFO
    if status is Status.INTERNAL:
        return logging.ERROR
    return logging.INFO if status in _ORDINARY else logging.WARNING
