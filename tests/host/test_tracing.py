"""Traces of a real driver, as a real collector's protocol carries them: OTLP, protobuf over HTTP."""

from __future__ import annotations

import http.server
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from katacsi import otlp
from katacsi.csi.client import Client, RpcError, csi
from katacsi.testing.kubelet import Volume
from katacsi.testing.process import ServeProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
#: As a kubelet sends it that records its own call (W3C Trace Context).
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Collector:
    """Takes `POST /v1/traces`; `answer` may hang or refuse."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.asked = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.status = 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                collector.goes_on.wait()
                collector.requests.append(body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.goes_on.set()
        self.server.shutdown()
        self.server.server_close()

    def resources(self) -> list[dict[str, str]]:
        return [
            {attribute.key: attribute.value.string_value for attribute in part.resource.attributes}
            for part in self._parts()
        ]

    def spans(self) -> dict[str, list]:
        """All spans so far, by name."""
        found: dict[str, list] = {}
        for part in self._parts():
            for scope in part.scope_spans:
                for span in scope.spans:
                    found.setdefault(span.name, []).append(span)
        return found

    def _parts(self) -> Iterator:
        for body in self.requests:
            yield from ExportTraceServiceRequest.FromString(body).resource_spans


@pytest.fixture
def collector():
    """A collector on loopback."""
    collector = Collector()
    yield collector
    collector.close()


def serving(scratch, collector: Collector, **others) -> ServeProcess:
    return ServeProcess(scratch, settings={"tracing": {"endpoint": collector.url}}, **others)


def ancestors(span, spans: dict[str, list]) -> list[str]:
    by_id = {one.span_id: one for many in spans.values() for one in many}
    names = []
    while (span := by_id.get(span.parent_span_id)) is not None:
        names.append(span.name)
    return names


async def test_one_trace_leads_from_the_kubelet_to_mkfs(scratch, collector):
    """NodeStageVolume lies within the kubelet's span, its phases within it, and mkfs within those."""
    with serving(scratch, collector) as driver:
        async with Client(driver.socket) as client:
            volume = Volume("data", client=client, staging=scratch / "s", target=scratch / "p" / "mount")
            await volume.create()
            volume.staging.mkdir()
            await client.node.node_stage_volume(volume.to_stage(), metadata=TRACEPARENT)
            await client.identity.probe(csi.ProbeRequest())
            await volume.publish()
            await volume.unpublish()
            await volume.unstage()
        # At once: what was recorded last is sent by the end of the process.
        assert driver.stop() == 0
    spans = collector.spans()
    (stage,) = spans["csi.v1.Node/NodeStageVolume"]
    assert (stage.trace_id.hex(), stage.parent_span_id.hex()) == (TRACE, PARENT)
    *_, mkfs = spans["mkfs.ext4"]  # before it, the tool may have been asked for its version
    assert mkfs.trace_id.hex() == TRACE
    assert ancestors(mkfs, spans) == ["format", "filesystem", "csi.v1.Node/NodeStageVolume"]
    assert stage.start_time_unix_nano <= mkfs.start_time_unix_nano < mkfs.end_time_unix_nano
    assert mkfs.end_time_unix_nano <= stage.end_time_unix_nano
    facts = {fact.key: fact.value for fact in stage.attributes}
    assert facts["katacsi.volume_id"].string_value == volume.volume_id
    assert facts["rpc.grpc.status_code"].int_value == 0
    (publish,) = spans["csi.v1.Node/NodePublishVolume"]
    assert (publish.parent_span_id, publish.trace_id.hex() == TRACE) == (b"", False)
    (hand_over,) = spans["hand over"]
    assert ancestors(hand_over, spans) == ["csi.v1.Node/NodePublishVolume"]
    assert "csi.v1.Node/NodeUnstageVolume" in spans
    assert "csi.v1.Identity/Probe" not in spans, "it comes every few seconds, and nobody asked"
    (about, *_) = collector.resources()
    assert (about["service.name"], about["k8s.node.name"]) == ("katacsi", "node-1")
    log = driver.log.read_text()
    assert TRACE in log, "a line of the log leads to its trace"


async def test_a_failure_is_told_without_a_secret(scratch, collector):
    """The span of a refused call has its code and its words; no span has a secret that came with the call."""
    with serving(scratch, collector) as driver:
        async with Client(driver.socket) as client:
            volume = Volume("data", client=client, staging=scratch / "s", target=scratch / "t")
            await volume.create()
            request = volume.to_stage()
            request.volume_id = "v1:default:00000000:hunter22secret"
            request.secrets = {"key": "hunter22secret"}
            with pytest.raises(RpcError, match="NOT_FOUND"):
                await client.node.node_stage_volume(request)
        driver.stop()
    (stage,) = collector.spans()["csi.v1.Node/NodeStageVolume"]
    facts = {fact.key: fact.value for fact in stage.attributes}
    assert (facts["rpc.grpc.status_code"].int_value, facts["error.type"].string_value) == (5, "NotFound")
    assert stage.status.code == 2
    assert "[redacted]" in stage.status.message
    assert not stage.events, "an exception's text and traceback are not sent"
    stage.attributes.clear()  # the id that was asked for is no secret by itself
    assert b"hunter22secret" not in stage.SerializeToString()


async def test_a_collector_that_hangs_or_refuses_holds_up_nothing(scratch, collector):
    """While it hangs, calls are answered and the driver ends in bounded time; the same while it refuses."""
    collector.goes_on.clear()
    with serving(scratch, collector) as driver:
        async with Client(driver.socket) as client:
            volume = Volume("data", client=client, staging=scratch / "s", target=scratch / "p" / "mount")
            await volume.create()
            assert collector.asked.wait(30), "the first batch is on its way, and is not answered"
            await volume.stage()
            await volume.unstage()
            collector.status = 503
            collector.goes_on.set()
            await volume.stage()
            await volume.unstage()
            collector.goes_on.clear()
        started = time.monotonic()
        assert driver.stop() == 0
        assert time.monotonic() - started < 15


def test_the_end_waits_for_the_last_spans_no_longer_than_it_says(collector, monkeypatch):
    """Sending hangs for seconds; the process goes on after its own bound."""
    monkeypatch.setattr(otlp, "FLUSH_S", 0.2)
    tracer = otlp.OtlpTracer(collector.url, {})
    collector.goes_on.clear()
    with tracer.span("last"):
        pass
    started = time.monotonic()
    tracer.close()
    assert time.monotonic() - started < otlp._SEND_TIMEOUT_S - 1
    assert not collector.requests
    collector.goes_on.set()


async def test_opentelemetry_s_own_variable_is_enough(scratch, collector):
    """OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME, as an operator sets them for all pods."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "storage"}
    with ServeProcess(scratch, environment=environment) as driver:
        async with Client(driver.socket) as client:
            await Volume("data", client=client, staging=scratch / "s", target=scratch / "t").create()
        driver.stop()
    assert "csi.v1.Controller/CreateVolume" in collector.spans()
    assert collector.resources()[0]["service.name"] == "storage"
