"""What happens around every RPC: status, log line, metrics, cancellation; and that no secret is told."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from katacsi import errors
from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import Volume
from katacsi.model import Condition, VolumeId
from katacsi.volumes.requests import Stats, VolumeView

SECRET = "c0rrect-horse-b4ttery"


def capability():
    return csi.VolumeCapability(
        mount=csi.VolumeCapabilityMountVolume(),
        access_mode=csi.VolumeCapabilityAccessMode(
            mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER
        ),
    )


def stage_request():
    return csi.NodeStageVolumeRequest(
        volume_id="v1:fast:0123abcd:pvc-1",
        staging_target_path="/staging",
        volume_capability=capability(),
        publish_context={"factsToken": SECRET},
        secrets={"chap": SECRET},
    )


def lines(stream, event):
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if line["event"] == event]


async def settled(fact):
    """Wait until a fact is there."""
    async with asyncio.timeout(5):
        while not fact():  # noqa: ASYNC110  # nobody sets an event when a line was written
            await asyncio.sleep(0.01)


async def failure(door, error):
    door.workflows.answers["staging.stage"] = error
    with pytest.raises(GRPCError) as caught:
        await door.node.node_stage_volume(stage_request())
    return caught.value


# -- status --------------------------------------------------------------------------------------------


async def test_error_of_a_workflow_becomes_its_status_and_words(door):
    """The caller reads the error's own message, whatever alphabet it is in, with the code of its class."""
    answer = await failure(door, errors.VolumeInUse("Volume »v«: noch eingehängt\nunter /x (100 %)"))
    assert answer.status is Status.FAILED_PRECONDITION
    assert answer.message == "Volume »v«: noch eingehängt\nunter /x (100 %)"


async def test_unforeseen_error_tells_the_caller_where_to_look(door, log_stream):
    """An error nobody foresaw is INTERNAL without its text; the log has it under the request's number."""
    answer = await failure(door, ZeroDivisionError("details"))
    assert answer.status is Status.INTERNAL
    assert "details" not in answer.message
    (line,) = lines(log_stream, "answered")
    assert line["request"] in answer.message
    assert line["level"] == "error"
    assert "ZeroDivisionError: details" in line["traceback"]


async def test_own_time_limit_is_deadline_exceeded(door):
    """A step that took too long is DEADLINE_EXCEEDED, which sidecars repeat, and never UNKNOWN."""
    answer = await failure(door, TimeoutError())
    assert answer.status is Status.DEADLINE_EXCEEDED


async def test_workflow_without_answer_does_not_hang(door):
    """An answer that cannot be rendered ends the call as INTERNAL at once."""
    door.workflows.answers["provisioning.create"] = None
    with pytest.raises(GRPCError) as caught:
        await door.controller.create_volume(
            csi.CreateVolumeRequest(name="n", volume_capabilities=[capability()]), timeout=5
        )
    assert caught.value.status is Status.INTERNAL


async def test_answer_that_cannot_be_encoded_does_not_hang(door):
    """A value of a wrong type that surfaces only while the answer is sent ends the call as INTERNAL."""
    volume = Volume(VolumeId("p", "0123abcd", "n"), "n", 1)
    door.workflows.answers["provisioning.get"] = VolumeView(volume, {"key": 5}, (), Condition())
    with pytest.raises(GRPCError) as caught:
        await door.controller.controller_get_volume(csi.ControllerGetVolumeRequest(volume_id="v"), timeout=5)
    assert caught.value.status is Status.INTERNAL


# -- log and metrics -----------------------------------------------------------------------------------


async def test_one_line_for_each_outcome(door, log_stream):
    """A call leaves one line: what was called, on which volume, with which code, and how long it took."""
    await door.node.node_stage_volume(stage_request())
    (line,) = lines(log_stream, "answered")
    assert line["rpc"] == "NodeStageVolume"
    assert line["volume_id"] == "v1:fast:0123abcd:pvc-1"
    assert (line["code"], line["level"]) == ("OK", "info")
    assert 0 < line["seconds"] < 5


@pytest.mark.parametrize(
    ("error", "level", "retry_helps"),
    [
        (errors.NotFound("x"), "warning", False),
        (errors.OperationPending("x"), "info", True),
        (errors.HostError("x"), "error", True),
        (errors.CorruptRecord("x"), "error", False),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_line_tells_whether_somebody_has_to_look(door, log_stream, error, level, retry_helps):
    """A call that comes again is info, a refusal a warning, a failure of the host an error; and the line
    says whether the same call may succeed by itself.
    """
    await failure(door, error)
    (line,) = lines(log_stream, "answered")
    assert line["level"] == level
    assert (line["error"], line["retry_helps"]) == (error.message, retry_helps)
    assert "traceback" not in line


async def test_chatty_calls_are_quiet_while_they_succeed(door, log_stream):
    """Success of a call that comes every few seconds is at debug; its failure is as loud as any other."""
    request = csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t")
    door.workflows.answers["usage.stats"] = Stats((), Condition())
    await door.node.node_get_volume_stats(request)
    door.workflows.answers["usage.stats"] = errors.NotFound("x")
    with suppress(GRPCError):
        await door.node.node_get_volume_stats(request)
    assert [line["level"] for line in lines(log_stream, "answered")] == ["debug", "warning"]


async def test_calls_do_not_inherit_each_others_context(door, log_stream):
    """What one call bound to its log lines is not on the lines of the next."""
    await door.node.node_stage_volume(stage_request())
    await door.identity.probe(csi.ProbeRequest())
    staged, probed = lines(log_stream, "answered")
    assert "volume_id" not in probed
    assert staged["request"] != probed["request"]


async def test_answers_are_counted_by_method_and_code(door):
    """Metrics have each answer once, refusals by their code, and nothing in flight at the end."""
    await door.node.node_stage_volume(stage_request())
    await failure(door, errors.OperationPending("x"))
    assert door.counted("NodeStageVolume", "OK") == 1
    assert door.counted("NodeStageVolume", "ABORTED") == 1
    value = door.metrics.registry.get_sample_value
    assert value("katacsi_rpcs_in_flight") == 0
    assert value("katacsi_pending_refusals_total", {"method": "NodeStageVolume"}) == 1


# -- secrets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        None,
        errors.HostError(f"iscsiadm: login with {SECRET} failed"),
        ValueError(f"cannot parse {SECRET!r}"),
        TimeoutError(SECRET),
        errors.InvalidRequest("secrets", f"{SECRET} is too short"),
    ],
    ids=["success", "host-error", "unforeseen", "timeout", "refusal"],
)
async def test_secrets_are_in_no_line_and_no_answer(door, log_stream, error):
    """At every level, and in whatever words an error quotes it, a secret is neither logged nor answered."""
    if error is None:
        await door.node.node_stage_volume(stage_request())
    else:
        answer = await failure(door, error)
        assert SECRET not in answer.message
    assert lines(log_stream, "asked"), "the requests themselves are logged at debug"
    assert SECRET not in log_stream.getvalue()


async def test_chained_errors_keep_secrets_too(door, log_stream):
    """An error that was raised from another one shows both in the traceback, and of neither the secret."""

    async def stage(request):
        raise RuntimeError("while logging in") from OSError(f"password {SECRET}")

    await failure(door, stage)
    (line,) = lines(log_stream, "answered")
    assert "while logging in" in line["traceback"]
    assert "OSError" in line["traceback"]
    assert SECRET not in log_stream.getvalue()


async def test_secrets_stay_secret_after_the_caller_left(door, log_stream):
    """A change that fails when nobody waits for it any more is logged without secrets as well."""
    left = asyncio.Event()

    async def stage(request):
        await left.wait()
        raise RuntimeError(f"login with {SECRET}")

    door.workflows.answers["staging.stage"] = stage
    call = asyncio.create_task(door.node.node_stage_volume(stage_request(), timeout=0.05))
    with suppress(GRPCError, TimeoutError):
        await call
    left.set()
    await door.changes.drained()
    (line,) = lines(log_stream, "failed after its caller had left")
    assert "RuntimeError" in line["traceback"]
    assert line["volume_id"] == "v1:fast:0123abcd:pvc-1"
    assert SECRET not in log_stream.getvalue()


# -- cancellation --------------------------------------------------------------------------------------

CHANGES = {
    "staging.stage": ("node_stage_volume", stage_request()),
    "staging.unstage": (
        "node_unstage_volume",
        csi.NodeUnstageVolumeRequest(volume_id="v", staging_target_path="/s"),
    ),
    "publishing.publish": (
        "node_publish_volume",
        csi.NodePublishVolumeRequest(
            volume_id="v", staging_target_path="/s", target_path="/t", volume_capability=capability()
        ),
    ),
    "unpublishing.unpublish": (
        "node_unpublish_volume",
        csi.NodeUnpublishVolumeRequest(volume_id="v", target_path="/t"),
    ),
    "expansion.expand": (
        "node_expand_volume",
        csi.NodeExpandVolumeRequest(volume_id="v", volume_path="/t"),
    ),
    "provisioning.create": (
        "create_volume",
        csi.CreateVolumeRequest(name="n", volume_capabilities=[capability()]),
    ),
    "provisioning.delete": ("delete_volume", csi.DeleteVolumeRequest(volume_id="v")),
    "snapshots.create": ("create_snapshot", csi.CreateSnapshotRequest(name="n", source_volume_id="v")),
    "snapshots.delete": ("delete_snapshot", csi.DeleteSnapshotRequest(snapshot_id="s")),
}


@pytest.mark.parametrize("workflow", CHANGES)
@pytest.mark.parametrize("how", ["deadline-then-reset", "client-leaves"])
async def test_no_change_is_cut_by_a_cancelled_call(door, log_stream, workflow, how):
    """The caller gives up, by deadline and by reset; the change on the host still runs to its end."""
    method, request = CHANGES[workflow]
    begun, may_end, steps = asyncio.Event(), asyncio.Event(), []

    async def change(*arguments):
        begun.set()
        steps.append("first")
        await may_end.wait()
        await asyncio.sleep(0)
        steps.append("last")

    door.workflows.answers[workflow] = change
    stub = door.node if hasattr(door.node, method) else door.controller
    # The client's deadline goes along with the call: the server cancels at it, then the client resets.
    timeout = 0.05 if how == "deadline-then-reset" else None
    call = asyncio.create_task(getattr(stub, method)(request, timeout=timeout))
    await begun.wait()
    if how == "client-leaves":
        call.cancel()
    with suppress(GRPCError, TimeoutError, asyncio.CancelledError):
        await call
    await settled(lambda: lines(log_stream, "answered"))
    assert steps == ["first"]
    assert len(door.changes) == 1
    may_end.set()
    await door.changes.drained()
    assert steps == ["first", "last"]
    (line,) = lines(log_stream, "answered")
    # Of deadline and reset the one that the server saw first.
    assert line["code"] in ({"DEADLINE_EXCEEDED", "CANCELLED"} if timeout else {"CANCELLED"})
    assert lines(log_stream, "finished after its caller had left")


async def test_a_look_ends_with_its_call(door):
    """A call that changes nothing is not kept alive when its caller leaves."""
    ended = asyncio.Event()

    async def stats(request):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    door.workflows.answers["usage.stats"] = stats
    request = csi.NodeGetVolumeStatsRequest(volume_id="v", volume_path="/t")
    with pytest.raises((GRPCError, TimeoutError)):
        await door.node.node_get_volume_stats(request, timeout=0.05)
    await asyncio.wait_for(ended.wait(), 5)
