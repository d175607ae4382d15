"""The transport serves any service: what it knows of one is handed to it."""

from __future__ import annotations

import json

import pytest
from grpclib.client import UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.testing import ChannelFor

from katacsi import errors
from katacsi._gen.csi import v1 as csi
from katacsi.metrics import Metrics
from katacsi.rpc.calls import methods_of
from katacsi.rpc.interceptor import Interceptor
from katacsi.rpc.redact import Redaction

SECRET = "c0rrect-horse-b4ttery"


class Keeper:
    """A service that is not one of CSI's; its messages are, for want of others."""

    async def keep(self, stream) -> None:
        message = await stream.recv_message()
        if message.secrets["key"] == SECRET:
            raise errors.Precondition(f"{message.volume_id}: {SECRET} is worn out")
        await stream.send_message(csi.DeleteVolumeResponse())

    def __mapping__(self):
        kinds = csi.DeleteVolumeRequest, csi.DeleteVolumeResponse
        return {"/test.v1.Keeper/Keep": Handler(self.keep, Cardinality.UNARY_UNARY, *kinds)}


async def test_another_service_is_logged_counted_and_kept_secret(log_stream):
    """A service with a method table and secrets of its own gets status, log line and metrics like CSI's."""
    metrics, service = Metrics.create(), Keeper()
    methods = methods_of([service], subjects=("volume_id",), chatty={"Keep"})
    redaction = Redaction({"DeleteVolumeRequest": {"secrets"}})
    channel_for = ChannelFor([service])
    async with channel_for as channel:
        Interceptor(metrics, methods, redaction).listen_to(channel_for._server)
        keep = UnaryUnaryMethod(
            channel, "/test.v1.Keeper/Keep", csi.DeleteVolumeRequest, csi.DeleteVolumeResponse
        )
        await keep(csi.DeleteVolumeRequest(volume_id="v", secrets={"key": "another"}))
        with pytest.raises(GRPCError) as caught:
            await keep(csi.DeleteVolumeRequest(volume_id="v", secrets={"key": SECRET}))
    assert caught.value.status is Status.FAILED_PRECONDITION
    assert caught.value.message == "v: [redacted] is worn out"
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    answered = [line for line in lines if line["event"] == "answered"]
    assert [(line["rpc"], line["volume_id"], line["level"]) for line in answered] == [
        ("Keep", "v", "debug"),
        ("Keep", "v", "warning"),
    ]
    assert SECRET not in log_stream.getvalue()
    counted = {"method": "Keep", "code": "FAILED_PRECONDITION"}
    assert metrics.registry.get_sample_value("katacsi_rpc_duration_seconds_count", counted) == 1
