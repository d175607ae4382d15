"""The facts that outlive everything but the volume itself."""

import dataclasses
import json

import pytest

from katacsi.backends.api import Facts, FormatState


@pytest.mark.parametrize("state", FormatState, ids=lambda state: state.value)
def test_a_copy_inherits_how_far_its_source_was(state):
    """What was said about the bytes stays true of their copy; what was said about a guest does not."""
    source = Facts(
        state,
        "ext4",
        "u",
        guest_written=True,
        raw_written=True,
        pending_size=7,
        growing=5,
        others=(("later", "1"),),
    )
    formatted = state is not FormatState.UNFORMATTED
    assert source.of_copy() == source.with_(pending_size=0, inherited_uuid=formatted)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Facts)])
def test_one_fact_changes_alone(field):
    """Changing a fact leaves the others, and the facts that were read, as they are."""
    before = Facts()
    value = {
        "format": FormatState.FORMATTED,
        "pending_size": 5,
        "growing": 5,
        "fs_type": "xfs",
        "fs_uuid": "u",
        "others": (("later", "1"),),
    }.get(field, True)
    after = before.with_(**{field: value})
    assert dataclasses.asdict(after) == dataclasses.asdict(before) | {field: value}
    assert before == Facts()


def test_a_misspelt_fact_is_refused():
    """There is no silent fact."""
    with pytest.raises(TypeError):
        Facts().with_(guest_writen=True)


FACTS = Facts(FormatState.FORMATTED, "ext4", "u", raw_written=True, growing=1 << 40)


def test_facts_go_through_json():
    """Any backend can store them as JSON, and reads what it wrote."""
    assert Facts.from_dict(json.loads(json.dumps(FACTS.to_dict()))) == FACTS


def test_facts_of_other_versions_are_read():
    """What an earlier version did not know is as at the start; what a later one knows is kept as it is."""
    assert Facts.from_dict({"format": "formatted"}) == Facts(FormatState.FORMATTED)
    stored = {**FACTS.to_dict(), "encrypted": {"b": 1, "a": [True, None]}, "others": "not ours"}
    facts = Facts.from_dict(stored)
    assert facts.with_(others=()) == FACTS
    assert facts.with_(guest_written=True).to_dict() == {**stored, "guest_written": True}


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "perhaps"},
        {"format": None},
        {"guest_written": "true"},
        {"raw_written": 1},
        {"growing": True},
        {"growing": -1},
        {"pending_size": 1.5},
        {"fs_uuid": None},
    ],
    ids=str,
)
def test_a_fact_that_cannot_be_is_an_error(wrong):
    """What was changed by hand is not guessed at."""
    with pytest.raises(ValueError, match=f"{min(wrong)}|FormatState"):
        Facts.from_dict(FACTS.to_dict() | wrong)
