"""The server on a real unix socket: who may connect, who answers, and how it ends."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from asyncio import selector_events

import hyperframe.frame
import pytest

from katacsi.backends.api import Volume
from katacsi.csi.client import Client, RpcError, csi
from katacsi.csi.methods import METHODS
from katacsi.errors import SettingsError
from katacsi.model import Condition, VolumeId
from katacsi.rpc import server
from katacsi.rpc.interceptor import Interceptor
from katacsi.volumes.requests import VolumePage, VolumeView
from support.door import serving
from support.plain_http2 import PlainClient, framed

STAGE = csi.NodeStageVolumeRequest(
    volume_id="v",
    staging_target_path="/s",
    volume_capability=csi.VolumeCapability(
        block=csi.VolumeCapabilityBlockVolume(),
        access_mode=csi.VolumeCapabilityAccessMode(
            mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER
        ),
    ),
)


@pytest.fixture(params=["hastened", "plain"])
async def driver(request, tmp_path, monkeypatch):
    """The driver, with `katacsi.rpc.fast` and without it: nothing but its speed is another."""
    if request.param == "plain":
        monkeypatch.setattr(server, "hasten", lambda _: None)
    async with serving(tmp_path / "csi.sock") as served:
        yield served


# -- the socket ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
async def test_only_root_may_connect(tmp_path, umask):
    """The socket has mode 0600 from its first moment, whatever the process's umask, which stays as it was."""
    former = os.umask(umask)
    try:
        async with serving(tmp_path / "csi.sock") as driver:
            assert stat.S_IMODE(driver.path.stat().st_mode) == 0o600
            assert os.umask(umask) == umask
    finally:
        os.umask(former)


async def test_socket_of_a_dead_driver_is_replaced(tmp_path):
    """After a SIGKILL the socket file is still there; the next start serves at the same path."""
    path = tmp_path / "csi.sock"
    # What a killed process leaves behind: a socket file that nobody listens on.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.is_socket()
    async with serving(path), Client(path) as client:
        await client.identity.probe(csi.ProbeRequest())


async def test_socket_in_use_is_left_to_its_owner(driver):
    """A second driver on the same socket refuses to start and says why; the first goes on serving."""
    with pytest.raises(SettingsError, match="another process answers"):
        async with serving(driver.path):
            pass
    async with Client(driver.path) as client:
        await client.identity.probe(csi.ProbeRequest())


async def test_whatever_else_lies_there_is_not_removed(tmp_path):
    """A path that holds something other than a socket is an error, and the file stays."""
    path = tmp_path / "csi.sock"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="something else lies there"):
        async with serving(path):
            pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 108, "longer than 107 bytes"), ("absent/csi.sock", "folder has to exist")],
    ids=["too-long", "no-folder"],
)
async def test_unusable_path_is_explained(tmp_path, name, words):
    """A path that no socket can have is a settings error in words."""
    with pytest.raises(SettingsError, match=words):
        async with serving(tmp_path / name):
            pass


async def test_drain_removes_its_own_socket_only(tmp_path):
    """The socket file goes with its driver, unless a successor has put its own there."""
    path = tmp_path / "csi.sock"
    async with serving(path) as first:
        await first.server.drain(1)
    assert not path.exists()
    async with serving(path) as first:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            await first.server.drain(1)
            assert path.exists()


# -- what nobody implements ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/csi.v1.GroupController/GroupControllerGetCapabilities",
        "/csi.v1.GroupController/CreateVolumeGroupSnapshot",
        "/csi.v1.SnapshotMetadata/GetMetadataAllocated",
        "/csi.v1.Controller/ControllerModifyVolume",
        "/csi.v1.Node/NodeGetStorageHealth",
        "/csi.v1.Node/NoSuchMethod",
        "/no.such.Service/Method",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_unsupported_call_is_unimplemented_with_a_content_type(driver, path):
    """Known but unsupported, or wholly unknown: grpc-go reads UNIMPLEMENTED only beside a content-type."""
    client = await PlainClient.connect(driver.path)
    headers = await client.answer(client.call(path))
    await client.close()
    assert headers["grpc-status"] == "12"
    assert headers["content-type"].startswith("application/grpc")
    assert headers[":status"] == "200"
    assert headers["grpc-message"].endswith(
        ("is not offered by this driver; ask for its capabilities", "here")
    )


async def test_all_five_services_are_registered(driver):
    """No method of CSI 1.13 is unknown to the server."""
    assert set(driver.server._mapping) == set(METHODS)


async def test_invented_methods_make_no_metrics(driver):
    """However many method names a caller invents, they count as one."""
    client = await PlainClient.connect(driver.path)
    for number in range(3):
        await client.answer(client.call(f"/invented/{number}"))
    await client.close()
    metrics = driver.metrics
    found = {sample.labels["method"] for family in metrics.rpc_seconds.collect() for sample in family.samples}
    assert found == {"unknown"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\0\0\0\0\x02\x0a\xff", "3"),
        (b"\0\0\0\0\x04\x0a\x02\xff\xfe", "3"),
        (b"\0\0\0\0\x09\x0a", "3"),
        (b"", "3"),
        (b"\1\0\0\0\0", "12"),
    ],
    ids=["truncated-field", "no-utf8", "truncated-message", "no-message", "compressed"],
)
async def test_unreadable_message_is_the_callers_fault(driver, body, code):
    """Bytes that are no message are INVALID_ARGUMENT (UNIMPLEMENTED if compressed), never UNKNOWN."""
    client = await PlainClient.connect(driver.path)
    headers = await client.answer(client.call("/csi.v1.Controller/DeleteVolume", body))
    await client.close()
    assert headers["grpc-status"] == code
    assert driver.workflows.calls == []


async def test_change_survives_deadline_and_reset(driver):
    """grpclib cancels at the deadline and again when the client resets the stream; the change is not cut."""
    begun, may_end = driver.hold("staging.stage")
    client = await PlainClient.connect(driver.path)
    stream = client.call("/csi.v1.Node/NodeStageVolume", framed(STAGE), timeout="50m")
    await begun.wait()
    assert (await client.answer(stream))["grpc-status"] == "4"
    counted = driver.metrics.registry.get_sample_value
    late = {"method": "NodeStageVolume", "code": "DEADLINE_EXCEEDED"}
    assert counted("katacsi_rpc_duration_seconds_count", late) == 1
    client.writer.write(hyperframe.frame.RstStreamFrame(stream, error_code=8).serialize())
    again = client.call("/csi.v1.Identity/Probe")
    assert (await client.answer(again))["grpc-status"] == "0"
    assert len(driver.changes) == 1
    may_end.set()
    await driver.changes.drained()
    await client.close()


# -- the end -------------------------------------------------------------------------------------------


async def test_drain_finishes_what_runs_and_refuses_what_comes(driver):
    """A running call is answered OK, one that comes now UNAVAILABLE, and nobody can connect any more."""
    begun, may_end = driver.hold("staging.stage")
    client = await PlainClient.connect(driver.path)
    running = client.call("/csi.v1.Node/NodeStageVolume", framed(STAGE))
    await begun.wait()
    drain = asyncio.create_task(driver.server.drain(5))
    await client.last_stream()
    late = await client.answer(client.call("/csi.v1.Identity/Probe"))
    assert late["grpc-status"] == "14"
    assert "shutting down" in late["grpc-message"]
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        await asyncio.open_unix_connection(driver.path)
    assert running not in client.answers
    assert not drain.done()
    may_end.set()
    assert (await client.answer(running))["grpc-status"] == "0"
    assert await drain is True
    await client.close()


async def test_goaway_names_the_last_call_that_is_served(driver):
    """Every connection, an idle one too, hears GOAWAY and its last call that is answered, then it ends."""
    idle, busy = await PlainClient.connect(driver.path), await PlainClient.connect(driver.path)
    await busy.answer(busy.call("/csi.v1.Identity/Probe"))
    await idle.read_frame()
    drain = asyncio.create_task(driver.server.drain(5))
    assert [await client.last_stream() for client in (idle, busy)] == [0, 1]
    assert await drain is True
    for client in (idle, busy):
        assert await client.reader.read() == b""
        await client.close()


async def test_drain_waits_for_changes_whose_caller_left(driver):
    """A change that outlived its call is finished before the driver ends."""
    begun, may_end = driver.hold("staging.stage")
    async with Client(driver.path) as client:
        with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
            await client.node.node_stage_volume(STAGE, timeout=0.1)
    assert begun.is_set()
    drain = asyncio.create_task(driver.server.drain(5))
    await asyncio.sleep(0.05)
    assert not drain.done()
    may_end.set()
    assert await drain is True
    assert len(driver.changes) == 0


async def test_grace_is_a_limit(driver):
    """When the grace is over the driver ends anyway and says so; the change itself is still not cut."""
    begun, may_end = driver.hold("staging.stage")
    async with Client(driver.path) as client:
        call = asyncio.create_task(client.node.node_stage_volume(STAGE))
        await begun.wait()
        async with asyncio.timeout(3):
            assert await driver.server.drain(0.1) is False
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            await call
    assert len(driver.changes) == 1
    may_end.set()
    await driver.changes.drained()


async def test_client_that_stays_connected_does_not_keep_the_driver(driver):
    """A connection that its client keeps open, as the kubelet does, ends with the driver on any Python."""
    client = await PlainClient.connect(driver.path)
    await client.answer(client.call("/csi.v1.Identity/Probe"))
    async with asyncio.timeout(3):
        assert await driver.server.drain(1) is True
    await client.close()


async def test_client_that_does_not_read_does_not_keep_the_driver(driver):
    """Answers that nobody takes are dropped after a moment: the pod's termination grace is short."""
    identifiers = VolumeId("p", "0123abcd", "n")
    many = tuple(
        VolumeView(Volume(identifiers, "n", 1), {"key": "x" * 1000}, (), Condition()) for _ in range(500)
    )
    driver.workflows.answers["provisioning.list"] = VolumePage(many)
    client = await PlainClient.connect(driver.path)
    client.open_windows()
    for _ in range(3):
        client.call("/csi.v1.Controller/ListVolumes")
    client.writer.transport.pause_reading()
    await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        assert await driver.server.drain(0.5) is False
    assert not driver.server._alive
    client.writer.transport.abort()


async def test_client_connection_survives_many_calls(driver):
    """The same connection serves call after call, a hundred at a time."""
    async with Client(driver.path) as client:
        for _ in range(3):
            await asyncio.gather(*(client.identity.probe(csi.ProbeRequest()) for _ in range(100)))


async def test_the_line_of_a_success_is_written_after_its_answer(driver, monkeypatch):
    """Who waits for an answer does not wait for the log; what went wrong is in the log before it is told."""
    order = []
    write, note = selector_events._SelectorSocketTransport.write, Interceptor._note

    def written(transport, data):
        order.append("answer")
        write(transport, data)

    def noted(interceptor, *arguments, **facts):
        order.append("line")
        note(interceptor, *arguments, **facts)

    monkeypatch.setattr(selector_events._SelectorSocketTransport, "write", written)
    monkeypatch.setattr(Interceptor, "_note", noted)
    client = await PlainClient.connect(driver.path)
    for path, expected in (("/csi.v1.Identity/Probe", ["answer", "line"]), ("/x", ["line", "answer"])):
        await client.answer(client.call(path))
        await asyncio.sleep(0)
        assert order[-2:] == expected
    await client.close()
