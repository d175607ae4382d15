"""What backends may know of a call: the secrets of every request that has some, and the caller's patience."""

from __future__ import annotations

import pytest

from katacsi._gen.csi import v1 as csi
from katacsi.backends.api import present_call
from katacsi.errors import Unavailable
from support.door import open_door

SECRETS = {"password": "hunter2"}
ID = "v1:fast:0123abcd:pvc-1"

#: Every RPC of CSI 1.13 whose request has secrets and that a local driver serves, with the workflow asked.
CALLS = [
    ("controller", "delete_volume", csi.DeleteVolumeRequest(volume_id=ID), "provisioning.delete"),
    (
        "controller",
        "create_snapshot",
        csi.CreateSnapshotRequest(source_volume_id=ID, name="s"),
        "snapshots.create",
    ),
    ("controller", "delete_snapshot", csi.DeleteSnapshotRequest(snapshot_id="s"), "snapshots.delete"),
    (
        "node",
        "node_expand_volume",
        csi.NodeExpandVolumeRequest(
            volume_id=ID, volume_path="/v", capacity_range=csi.CapacityRange(required_bytes=1)
        ),
        "expansion.expand",
    ),
]


@pytest.mark.parametrize(("service", "method", "request_", "workflow"), CALLS, ids=[c[1] for c in CALLS])
async def test_secrets_reach_the_backend(service, method, request_, workflow):
    """In the change that the call makes they can be asked for; in no other call, and not after it."""
    seen = []

    async def asked(*_):
        call = present_call()
        seen.append((dict(call.secrets), call.remaining_s()))
        raise Unavailable("that will do")

    async with open_door() as door:
        door.workflows.answers[workflow] = asked
        for secrets in (SECRETS, {}):
            request_.secrets = secrets
            with pytest.raises(Exception, match="that will do"):
                await getattr(getattr(door, service), method)(request_, timeout=60)
    assert [secrets for secrets, _ in seen] == [SECRETS, {}]
    assert all(0 < remaining <= 60 for _, remaining in seen)
    assert not present_call().secrets
