"""The metrics page, asked over a real socket."""

import asyncio
import contextlib
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from katacsi.httpserver import MAX_REQUEST_BYTES
from katacsi.metrics import Metrics
from katacsi.metrics_page import serve_metrics


@pytest.fixture
def metrics():
    """Fresh metrics."""
    return Metrics.create("1.2.3")


@pytest.fixture
async def server(metrics):
    """Their page on a free port."""
    server = await serve_metrics(metrics.registry, "127.0.0.1", 0, timeout_s=2)
    yield server
    await server.close()


async def ask(server, request):
    """Send bytes, read the answer to its end: status, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body.decode()


def get(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_the_page_is_what_prometheus_reads(metrics, server):
    """A scrape parses, and a counted call is in it under its labels."""
    metrics.rpc_seconds.labels("NodePublishVolume", "OK").observe(0.3)
    metrics.formats.labels("ext4").inc()
    metrics.pool_available_bytes.labels("default").set(7)
    status, headers, body = await ask(server, get("/metrics"))
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(headers["content-length"]) == len(body)
    call = {"method": "NodePublishVolume", "code": "OK"}
    assert value(body, "katacsi_rpc_duration_seconds_count", **call) == 1
    assert value(body, "katacsi_rpc_duration_seconds_bucket", **call, le="0.25") == 0
    assert value(body, "katacsi_rpc_duration_seconds_bucket", **call, le="0.5") == 1
    assert value(body, "katacsi_formats_total", filesystem="ext4") == 1
    assert value(body, "katacsi_pool_available_bytes", pool="default") == 7
    assert value(body, "process_open_fds") > 0


def value(page, name, **labels):
    samples = (sample for family in parse(page) for sample in family.samples)
    (found,) = (sample.value for sample in samples if (sample.name, sample.labels) == (name, labels))
    return found


async def test_openmetrics_for_who_asks_for_it(server):
    """Prometheus asks by Accept header; the answer says, and is, that form."""
    status, headers, body = await ask(
        server, get("/metrics?x=1", "ACCEPT: application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    )
    assert (status, headers["content-type"].split(";")[0]) == (200, "application/openmetrics-text")
    assert any(family.name == "katacsi_build" for family in parse_openmetrics(body))


async def test_health_is_that_the_loop_turns(server):
    """The liveness probe needs no metrics."""
    status, _, body = await ask(server, get("/healthz"))
    assert (status, body) == (200, "ok\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/metrics/"), 404),
        (get("/metricsx"), 404),
        (get("/debug/pprof"), 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics SMTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\xfd\r\n\r\n", 400),
        (get("/metrics", "Accept: application/openmetrics-text;version=x"), 400),
        (get("/metrics", "X: " + "a" * MAX_REQUEST_BYTES), 431),
    ],
)
async def test_nothing_else_is_served(server, request_, status):
    """Two paths, one method; the rest gets its status, no page and no traceback, and the server lives on."""
    answered, headers, body = await ask(server, request_)
    assert answered == status
    assert headers["connection"] == "close"
    assert "katacsi_" not in body
    assert (await ask(server, get("/healthz")))[0] == 200


async def test_a_slow_client_is_shown_out(metrics):
    """Who sends byte by byte, or nothing, is cut off in time; others are served meanwhile."""
    server = await serve_metrics(metrics.registry, "127.0.0.1", 0, timeout_s=0.2)
    try:
        silent, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /me")
        assert (await ask(server, get("/healthz")))[0] == 200
        before = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(silent.read(), 5) == b""
        assert time.monotonic() - before < 3
        writer.close()
    finally:
        await server.close()


async def test_closing_waits_for_nobody(metrics):
    """A shutdown is not held up by an open connection, frees the port, and may come twice."""
    server = await serve_metrics(metrics.registry, "127.0.0.1", 0, timeout_s=60)
    port = server.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics")
    await writer.drain()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(2):
        await server.close()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    await server.close()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_client_that_leaves_is_no_error(server, caplog):
    """A connection that opens and closes, as a TCP probe does, is not worth a line."""
    for sent in (b"", b"GET /metrics HTTP/1.1\r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
    assert (await ask(server, get("/healthz")))[0] == 200
    assert caplog.records == []
