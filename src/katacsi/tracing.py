"""Spans: what took how long within a call, told to a tracer where one is in use, and else to nobody.

This is only the door, which any room may use; without a tracer it costs a look at a variable. The tracer is
`katacsi.otlp`'s, and `app` puts it in use. No text of an error goes through here unless it was scrubbed: what
a span tells by itself is the error's class.
"""

from __future__ import annotations

import functools
import inspect
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar

import structlog

from katacsi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

log = structlog.get_logger(__name__)

#: OpenTelemetry's own names for where traces go.
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

P = ParamSpec("P")
T = TypeVar("T")


class Span(Protocol):
    """Something that takes time; it begins and ends with its `with`, and fails if that is left by an error.

    Attributes:
        trace_id: that of its trace, 32 hex digits; empty: nobody records it.
    """

    trace_id: str

    def tell(self, facts: Mapping[str, str | int]) -> None:
        """Add facts, by keys of OpenTelemetry's or of ours."""

    def fail(self, words: str) -> None:
        """Say that it failed, and why; no secret may be in the words."""


class Tracer(Protocol):
    """Makes spans; whatever goes wrong with them never reaches who works within."""

    def span(self, name: str) -> AbstractContextManager[Span]:
        """Give a span within the present one."""

    def server_span(self, name: str, headers: Mapping[str, Any]) -> AbstractContextManager[Span]:
        """Give the span of a call, within the one that its caller names in the headers (W3C, traceparent)."""

    def close(self) -> None:
        """Send what has been recorded, and end, in a few seconds; it blocks."""


class _Nothing:
    """The span of nobody."""

    __slots__ = ()
    trace_id = ""

    def tell(self, facts: Mapping[str, str | int]) -> None:
        """Forget them."""

    def fail(self, words: str) -> None:
        """Forget it."""


#: The span of nobody.
NOTHING: Final[Span] = _Nothing()
_NO_SPAN: Final[AbstractContextManager[Span]] = nullcontext(NOTHING)

_tracer: Tracer | None = None


def configured(
    endpoint: str | None, about: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> Tracer | None:
    """Make the tracer that the setting, or else OpenTelemetry's own variables ask for; None: nobody asks.

    Args:
        endpoint: the setting `tracing.endpoint`.
        about: attributes of this process.
        environment: where the variables are.

    Raises:
        SettingsError: the setting asks for what is not installed, or a variable has a value of no use.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if endpoint is None and not any(environment.get(name) for name in _ENDPOINTS):
        return None
    try:
        # Only here: it takes 9 MiB of a node's memory (measured).
        from katacsi.otlp import OtlpTracer  # noqa: PLC0415

        return OtlpTracer(endpoint, about)
    except ImportError as error:
        missing = f"{error.name} is not installed; install katacsi[tracing]"
        if endpoint is not None:
            raise SettingsError(f"tracing.endpoint: {missing}, or leave the setting out") from error
        # A variable may be set for every pod of a cluster by somebody else.
        log.warning("no traces, although a variable names a collector", reason=missing)
        return None
    except ValueError as error:
        raise SettingsError(f"an OTEL_ variable has a value of no use to OpenTelemetry: {error}") from error


def use(tracer: Tracer | None) -> None:
    """Have spans recorded from now on; None: by nobody. One tracer a process."""
    global _tracer  # noqa: PLW0603 -- spans are made everywhere, and recorded in one place
    _tracer = tracer


def span(name: str) -> AbstractContextManager[Span]:
    """Give a span within the present one."""
    return _NO_SPAN if _tracer is None else _tracer.span(name)


def server_span(
    name: str, headers: Mapping[str, Any], *, only_within: bool = False
) -> AbstractContextManager[Span]:
    """Give the span of a call that came with these headers.

    `only_within` is for calls that come all the time: they have one only where the caller records its own.
    """
    if _tracer is None or not name or (only_within and "traceparent" not in headers):
        return _NO_SPAN
    return _tracer.server_span(name, headers)


def phase(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make each run of a function, plain or a coroutine's, a span of this name."""

    def decorated(fn: Callable[P, T]) -> Callable[P, T]:
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401  # what `fn` gives
                if _tracer is None:
                    return await fn(*args, **kwargs)
                with _tracer.span(name):
                    return await fn(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # of the same kind as `fn`

        @functools.wraps(fn)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            if _tracer is None:
                return fn(*args, **kwargs)
            with _tracer.span(name):
                return fn(*args, **kwargs)

        return called

    return decorated
