"""Sends spans to an OpenTelemetry collector, by OTLP over HTTP; imported only where that is configured.

Spans wait in a bounded queue for a thread that sends them in batches. A collector that is slow, away or full
costs spans, and never a call.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.context import Context

#: How long one batch may take, and how long the end of a process waits for the last one, in seconds.
_SEND_TIMEOUT_S: Final = 5
FLUSH_S: Final = 3.0
#: What has been recorded is sent this often, in milliseconds.
_EVERY_MS: Final = 1000

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtlpTracer:
    """A `katacsi.tracing.Tracer` with an exporter of its own.

    Args:
        endpoint: where `POST /v1/traces` is answered; None: where OTEL_EXPORTER_OTLP_… variables say.
        about: attributes of this process besides its name, which is katacsi unless OTEL_SERVICE_NAME or
            OTEL_RESOURCE_ATTRIBUTES say otherwise.
    """

    def __init__(self, endpoint: str | None, about: Mapping[str, str]) -> None:
        exporter = OTLPSpanExporter(endpoint=endpoint and _traces(endpoint), timeout=_SEND_TIMEOUT_S)
        # Not at exit: `close` says when, and for how long.
        self._provider = TracerProvider(
            resource=Resource({"service.name": "katacsi", **about}).merge(_of_environment()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EVERY_MS))
        self._tracer = self._provider.get_tracer("katacsi")

    @contextmanager
    def span(self, name: str) -> Iterator[_Recorded]:
        """Give a span within the present one."""
        with self._began(name, trace.SpanKind.INTERNAL, None) as recorded:
            yield recorded

    @contextmanager
    def server_span(self, name: str, headers: Mapping[str, Any]) -> Iterator[_Recorded]:
        """Give the span of a call, within the one that its caller names."""
        carried = {key: str(headers[key]) for key in _PROPAGATOR.fields if key in headers}
        with self._began(name, trace.SpanKind.SERVER, _PROPAGATOR.extract(carried)) as recorded:
            yield recorded

    @contextmanager
    def _began(self, name: str, kind: trace.SpanKind, context: Context | None) -> Iterator[_Recorded]:
        # Their texts stay here: an error may quote a secret.
        quiet = {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, context, kind, **quiet) as span:  # type: ignore[arg-type]
            recorded = _Recorded(span)
            try:
                yield recorded
            except BaseException as error:
                if not recorded.failed:
                    recorded.tell({"error.type": type(error).__name__})
                    recorded.fail(type(error).__name__)
                raise

    def close(self) -> None:
        """Send what has been recorded and end, within `FLUSH_S`; it blocks for so long at most."""
        # A daemon: what hangs in it does not keep the process.
        sender = threading.Thread(target=self._provider.shutdown, name="katacsi-last-spans", daemon=True)
        sender.start()
        sender.join(FLUSH_S)


class _Recorded:
    """A span that is recorded."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.failed = False
        context = span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else ""

    def tell(self, facts: Mapping[str, str | int]) -> None:
        """Add facts."""
        for key, value in facts.items():
            self._span.set_attribute(key, value)

    def fail(self, words: str) -> None:
        """Say that it failed."""
        self.failed = True
        self._span.set_status(trace.Status(trace.StatusCode.ERROR, words))


def _of_environment() -> Resource:
    """Give what the environment says of this process; not the SDK's own defaults, such as an unknown name."""
    return OTELResourceDetector().detect()


def _traces(endpoint: str) -> str:
    """Give the address for traces of an endpoint, as OTEL_EXPORTER_OTLP_ENDPOINT is read (OTLP 1.0, 4.2)."""
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"
