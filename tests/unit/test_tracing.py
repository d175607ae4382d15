"""The door through which spans go: what it costs when nobody records, and what a tracer is told."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, contextmanager
from types import SimpleNamespace

import pytest

from katacsi import app, tracing
from katacsi.errors import HostError, SettingsError
from katacsi.host import command
from katacsi.settings import Settings


class Recorder:
    """A tracer that keeps names, facts and failures, nested as they were."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    @contextmanager
    def span(self, name):
        self.lines.append("  " * self.depth + name)
        self.depth += 1
        try:
            yield SimpleNamespace(trace_id="", tell=lambda facts: self.lines.append(f"{facts}"))
        except Exception as error:
            self.lines.append(f"{name} left by {type(error).__name__}")
            raise
        finally:
            self.depth -= 1

    def server_span(self, name, headers):
        return self.span(f"{name} {dict(headers)}")


@pytest.fixture
def recorder():
    """A tracer in use until the test is over."""
    recorder = Recorder()
    tracing.use(recorder)
    yield recorder
    tracing.use(None)


@tracing.phase("outer")
async def outer(error=None):
    """Documented."""
    return await asyncio.to_thread(inner, error)


@tracing.phase("inner")
def inner(error):
    if error:
        raise error
    return 7


async def test_a_phase_is_a_span_around_a_function_of_either_kind(recorder):
    """Coroutines and plain functions, in a thread too, give and raise what they did before."""
    assert await outer() == 7
    assert recorder.lines == ["outer", "  inner"]
    with pytest.raises(HostError, match="gone"):
        await outer(HostError("gone"))
    assert recorder.lines[-2:] == ["inner left by HostError", "outer left by HostError"]
    assert (outer.__name__, outer.__doc__) == ("outer", "Documented.")


async def test_without_a_tracer_nothing_is_made():
    """Nobody records: the same empty span for all, and phases call through."""
    assert await outer() == 7
    assert tracing.span("a") is tracing.span("b") is tracing.server_span("c", {})
    with tracing.span("a") as span:
        span.tell({"key": "value"})
        span.fail("words")
    assert span.trace_id == ""


def test_a_chatty_call_has_a_span_only_within_its_caller_s(recorder):
    """Probes come every few seconds; whoever records its own call wants this one, too."""
    for headers, expected in (({}, 0), ({"traceparent": "00-1"}, 1)):
        with tracing.server_span("Probe", headers, only_within=True):
            assert len(recorder.lines) == expected


def test_a_command_is_a_span_with_its_exit_code_and_nothing_of_its_words(recorder):
    """The tool's name and its end; arguments may name a secret's file, and output may quote one."""
    command.run(["true", "an argument"], timeout_s=10)
    with pytest.raises(command.CommandError):
        command.run(["false"], timeout_s=10)
    assert recorder.lines == [
        *("true", "{'process.exit.code': 0}", "false", "{'process.exit.code': 1}"),
        "false left by CommandError",
    ]


@pytest.fixture
def without_opentelemetry(monkeypatch):
    """As if the extra were not installed."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "katacsi.otlp", raising=False)


async def started(settings: Settings) -> bool:
    """Say whether a tracer is in use between start and end."""
    async with AsyncExitStack() as stack:
        app._start_tracing(settings, "n1", stack)
        return tracing._tracer is not None


async def test_what_is_not_installed_is_named(without_opentelemetry, monkeypatch):
    """The setting is refused; a variable, which may be set for all pods of a cluster, is passed over."""
    settings = Settings.model_validate({"tracing": {"endpoint": "http://collector:4318"}})
    with pytest.raises(
        SettingsError, match=r"tracing.endpoint: opentelemetry is not installed; install katacsi\["
    ):
        await started(settings)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert not await started(Settings())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
async def test_opentelemetry_s_own_variables_count(monkeypatch, variables, expected):
    """They turn traces on without a setting, and off; after the end nobody records any more."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert await started(Settings()) is expected
    assert tracing._tracer is None


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/otlp", "https://collector/otlp/v1/traces"),
        ("https://collector/v1/traces", "https://collector/v1/traces"),
    ],
)
def test_the_endpoint_is_a_base(endpoint, url):
    """As OpenTelemetry reads its variable: the path of traces is added, once."""
    from katacsi import otlp

    assert otlp._traces(endpoint) == url


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://a b"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    """Only http and https, with a host."""
    with pytest.raises(ValueError, match=r"tracing\.endpoint"):
        Settings.model_validate({"tracing": {"endpoint": endpoint}})
