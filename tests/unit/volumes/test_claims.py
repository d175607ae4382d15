"""What a claim asks for, and which claim a volume is for: pure decisions."""

from __future__ import annotations

import pytest

from katacsi.errors import Precondition
from katacsi.kube.objects import CLAIM, Claim, ObjectRef
from katacsi.volumes import claims
from katacsi.volumes.claims import NAME, NAMESPACE
from katacsi.volumes.parameters import DIRECT, DIRECT_FROM
from katacsi.volumes.publish.mode import Asked

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
REF = ObjectRef(CLAIM, "shop", "data", UID)


@pytest.mark.parametrize(
    ("parameters", "name", "expected"),
    [
        ({NAME: "data", NAMESPACE: "shop"}, f"pvc-{UID}", REF),
        ({NAME: "data", NAMESPACE: "shop"}, f"my-prefix-{UID}", REF),
        # A provisioner may cut the UID, or name volumes as it likes.
        ({NAME: "data", NAMESPACE: "shop"}, "pvc-0f1e2d3c4b", ObjectRef(CLAIM, "shop", "data")),
        ({NAME: "data", NAMESPACE: "shop"}, f"{UID}-clone", ObjectRef(CLAIM, "shop", "data")),
        ({NAME: "data"}, f"pvc-{UID}", None),
        ({NAMESPACE: "shop"}, f"pvc-{UID}", None),
        ({NAME: "", NAMESPACE: "shop"}, f"pvc-{UID}", None),
        ({}, f"pvc-{UID}", None),
    ],
)
def test_the_claim_of_a_volume(parameters, name, expected):
    """csi-provisioner's extra metadata name it, and the volume's name has its UID; else there is none."""
    assert claims.reference(parameters, name) == expected


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (claims.in_context(REF), REF),
        (claims.in_context(None), None),
        ({"katacsi.io/claim": "data"}, None),
        ({"katacsi.io/claim": "/data"}, None),
    ],
)
def test_the_context_of_a_volume_names_its_claim(context, expected):
    """What creation wrote there is read on the node; what is no name of a claim names none."""
    assert claims.told_by_context(context, f"pvc-{UID}") == expected


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        ({"other": "true"}, None),
        ({"katacsi.io/direct": "true"}, Asked.DIRECT),
        ({"katacsi.io/direct": "false"}, Asked.HOST),
        ({"katacsi.io/direct": "auto"}, Asked.AUTO),
        ({"skip-hostmount": "true"}, Asked.DIRECT),
        ({"skip-hostmount": "false"}, Asked.HOST),
        ({"skip-hostmount": "true", "katacsi.io/direct": "auto"}, Asked.AUTO),
        # What wins is read alone.
        ({"skip-hostmount": "nonsense", "katacsi.io/direct": "true"}, Asked.DIRECT),
    ],
)
def test_what_a_claim_asks_for(annotations, expected):
    """Our annotation wins over the compatible one; without either the StorageClass decides."""
    assert claims.asked_by(Claim(REF, annotations)) is expected


@pytest.mark.parametrize("value", ["", "True", "yes", "1", " true", "direct"])
@pytest.mark.parametrize("key", ["katacsi.io/direct", "skip-hostmount"])
def test_an_illegal_value_is_refused_with_the_command_that_mends_it(key, value):
    """Nobody has to look up how an annotation is corrected."""
    with pytest.raises(Precondition) as refusal:
        claims.asked_by(Claim(REF, {key: value}))
    for words in (
        "PVC shop/data",
        repr(value),
        "'true'",
        f"kubectl -n shop annotate --overwrite pvc data {key}=",
    ):
        assert words in refusal.value.message


BY_CLAIM = {DIRECT: "true", DIRECT_FROM: "claim", "filesystem": "ext4"}
BY_CLASS = {DIRECT: "auto", "filesystem": "ext4"}


@pytest.mark.parametrize(
    ("wishes", "had", "expected"),
    [
        (BY_CLASS, BY_CLASS, BY_CLASS),
        ({**BY_CLASS, DIRECT: "false"}, BY_CLASS, {**BY_CLASS, DIRECT: "false"}),
        (BY_CLASS, BY_CLAIM, BY_CLAIM),
        (BY_CLAIM, BY_CLASS, BY_CLASS),
        ({**BY_CLAIM, DIRECT: "false"}, BY_CLAIM, BY_CLAIM),
        ({**BY_CLAIM, "filesystem": "xfs"}, BY_CLASS, {**BY_CLASS, "filesystem": "xfs"}),
    ],
)
def test_only_what_the_first_call_read_of_a_claim_counts(wishes, had, expected):
    """An annotation that changed between two calls makes no other volume; all other wishes stay strict."""
    assert claims.as_first_read(wishes, had) == expected
