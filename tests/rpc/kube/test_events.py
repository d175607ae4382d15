"""Events: written as Kubernetes wants them, counted instead of repeated, never in anybody's way."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar

import pytest

from katacsi.kube import events, paths
from katacsi.kube.events import EventRecorder
from katacsi.kube.objects import PERSISTENT_VOLUME, POD, SNAPSHOT, ObjectRef

WEB = ObjectRef(POD, "default", "web-0", "uid-1")
LIST = paths.events("default")


@pytest.fixture
async def recorder(api):
    made = EventRecorder(api, controller="local.katacsi.io", instance="node-1")
    yield made
    await made.close()


async def written(recorder):
    """Wait until all that was told is written."""
    await asyncio.wait_for(recorder._queue.join(), 5)


async def test_an_event_is_as_kubernetes_wants_it(server, recorder):
    """Every field that the API requires is there, and `kubectl describe` finds it by the object's UID."""
    recorder.tell(WEB, "NodePublishVolume", "VolumeInUse", "volume v: is in use")
    await written(recorder)
    (event,) = server.bodies
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "default",
        "name": "web-0",
        "uid": "uid-1",
    }
    assert event["metadata"]["namespace"] == "default"
    assert event["metadata"]["name"].startswith("web-0.")
    assert {key: event[key] for key in ("type", "action", "reason", "note")} == {
        "type": "Warning",
        "action": "NodePublishVolume",
        "reason": "VolumeInUse",
        "note": "volume v: is in use",
    }
    assert (event["reportingController"], event["reportingInstance"]) == ("local.katacsi.io", "node-1")
    assert event["eventTime"].endswith("Z")


async def test_an_event_on_a_snapshot_names_the_api_of_snapshots(server, recorder):
    """`kubectl describe volumesnapshot` finds it: kind, API and UID are those of the object."""
    recorder.tell(ObjectRef(SNAPSHOT, "default", "nightly", "uid-2"), "CreateSnapshot", "VolumeInUse", "x")
    await written(recorder)
    (event,) = server.bodies
    assert (event["regarding"]["apiVersion"], event["regarding"]["kind"]) == (
        "snapshot.storage.k8s.io/v1",
        "VolumeSnapshot",
    )


async def test_the_same_again_is_a_series(server, recorder, monkeypatch):
    """A refusal that the kubelet provokes again and again is one Event with a count, seldom written."""
    for _ in range(50):
        recorder.tell(WEB, "NodePublishVolume", "VolumeInUse", "note")
        await asyncio.sleep(0)
    await written(recorder)
    recorder.tell(WEB, "NodePublishVolume", "VolumeInUse", "note")
    await written(recorder)
    assert [request.split()[0] for request in server.requests] == ["POST"]
    monkeypatch.setattr(events, "_PATCH_S", 0)
    recorder.tell(WEB, "NodePublishVolume", "VolumeInUse", "note")
    await written(recorder)
    assert [request.split()[0] for request in server.requests] == ["POST", "PATCH"]
    assert server.bodies[-1]["series"]["count"] == 52
    recorder.tell(WEB, "NodePublishVolume", "VolumeInUse", "another note")
    await written(recorder)
    assert server.requests[-1] == f"POST {LIST}"


async def test_an_event_that_expired_is_written_anew(server, recorder, monkeypatch):
    """The API server forgets Events after an hour; the refusal that goes on is told again."""
    monkeypatch.setattr(events, "_PATCH_S", 0)
    recorder.tell(WEB, "A", "R", "note")
    await written(recorder)
    server.objects.clear()
    recorder.tell(WEB, "A", "R", "note")
    await written(recorder)
    assert [request.split()[0] for request in server.requests] == ["POST", "PATCH", "POST"]


async def test_a_flood_is_not_passed_on(server, recorder):
    """A thousand refused pods cost the API server a few dozen requests."""
    for number in range(1000):
        recorder.tell(ObjectRef(POD, "default", f"web-{number}", "u"), "A", "R", "note")
        await asyncio.sleep(0)
    await written(recorder)
    assert len(server.requests) <= 21


async def test_a_long_note_is_cut_at_a_character(server, recorder):
    """Kubernetes refuses notes of more than 1024 bytes."""
    recorder.tell(WEB, "A", "R", "ä" * 1000)
    await written(recorder)
    note = server.bodies[0]["note"]
    assert len(note.encode()) <= 1024
    assert note.rstrip("…") == "ä" * (len(note) - 1)


async def test_an_object_without_a_namespace_has_its_events_in_default(server, recorder):
    """So do those of PersistentVolumes, where `kubectl describe` looks for them."""
    recorder.tell(ObjectRef(PERSISTENT_VOLUME, "", "pv-1", "u"), "A", "R", "note")
    await written(recorder)
    assert "namespace" not in server.bodies[0]["regarding"]
    assert server.requests == [f"POST {LIST}"]


@pytest.mark.parametrize("fault", ["hangs", "refuses", "gone"])
async def test_telling_never_fails_and_never_waits(server, recorder, fault):
    """With an API server in any state, telling takes no time, and so does the end."""
    if fault == "hangs":
        server.hanging = True
    elif fault == "refuses":
        server.failing = 403
    else:
        await server.stop()
    started = time.monotonic()
    for number in range(100):
        recorder.tell(WEB, "A", "R", f"note {number}")
    assert time.monotonic() - started < 0.2
    await recorder.close(within_s=0.3)
    assert time.monotonic() - started < 1.5


async def test_an_event_is_written_in_no_calls_name(api, recorder, monkeypatch):
    """The log lines and spans of writing are not those of the call that happened to tell first."""
    call = ContextVar("call", default="nobody")
    writers = []

    async def create(*_, **__):
        writers.append(call.get())

    monkeypatch.setattr(api, "create", create)
    call.set("NodePublishVolume")
    recorder.tell(WEB, "A", "R", "note")
    await written(recorder)
    assert writers == ["nobody"]


async def test_the_end_waits_for_what_was_told(server, recorder):
    """The last refusals before a shutdown are written, too."""
    for number in range(5):
        recorder.tell(WEB, "A", "R", f"note {number}")
    await recorder.close()
    assert [body["note"] for body in server.bodies] == [f"note {number}" for number in range(5)]
