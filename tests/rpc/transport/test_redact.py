"""What of a message may be written down."""

from __future__ import annotations

import dataclasses

import pytest

from katacsi._gen.csi import v1 as csi
from katacsi._gen.secrets import SECRET_FIELDS
from katacsi.csi.methods import REDACTION
from katacsi.logs import REDACTED
from katacsi.rpc.redact import scrub


@pytest.mark.parametrize("name", sorted(SECRET_FIELDS))
def test_no_message_shows_its_secrets(name):
    """Of every field that CSI marks as secret, in every message, only the keys are described."""
    message = getattr(csi, name)()
    for field in SECRET_FIELDS[name]:
        setattr(message, field, {"user": "hunter2-secret"})
    described = REDACTION.describe(message)
    assert "hunter2-secret" not in repr(described)
    assert all(described[field] == {"user": REDACTED} for field in SECRET_FIELDS[name])
    assert REDACTION.secret_values(message) == {"hunter2-secret"}


def test_publish_context_shows_keys_only():
    """What lets a node attach a network volume is not described; errors may still name its addresses."""
    context = {"portal": "10.0.0.1:3260", "factsToken": "t0ps3cret"}
    message = csi.NodeStageVolumeRequest(publish_context=context)
    assert REDACTION.describe(message)["publish_context"] == dict.fromkeys(context, REDACTED)
    assert REDACTION.secret_values(message) == {"t0ps3cret"}


def test_description_tells_what_was_set():
    """All that is set and no secret is there, in plain types: an empty mount too, an enum by its name."""
    capability = csi.VolumeCapability(
        mount=csi.VolumeCapabilityMountVolume(),
        access_mode=csi.VolumeCapabilityAccessMode(
            mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER
        ),
    )
    message = csi.CreateVolumeRequest(
        name="pvc-1",
        capacity_range=csi.CapacityRange(required_bytes=5),
        volume_capabilities=[capability],
        parameters={"a": "b"},
    )
    assert REDACTION.describe(message) == {
        "name": "pvc-1",
        "capacity_range": {"required_bytes": 5},
        "volume_capabilities": [{"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}],
        "parameters": {"a": "b"},
    }


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        ({"hunter2"}, "login hunter2 failed"),
        ({"it's\n1\t\\"}, "login it's\n1\t\\ failed"),
        ({"a\n1\t\\"}, f"login {('a' + chr(10) + '1' + chr(9) + chr(92))!r} failed"),
        ({"pass", "longer-pass-word"}, "login longer-pass-word failed"),
    ],
    ids=["plain", "with-line-end", "as-repr", "one-inside-another"],
)
def test_secrets_are_taken_out_of_a_text(secrets, text):
    """A secret is found as it is, as repr writes it, and before another one that it contains."""
    scrubbed = scrub(text, frozenset(secrets))
    assert scrubbed.replace("'", "") == f"login {REDACTED} failed"


def test_table_names_fields_that_exist():
    """Every message and field of the table of secrets is one of the generated code."""
    for name, fields in SECRET_FIELDS.items():
        assert fields <= {field.name for field in dataclasses.fields(getattr(csi, name))}
