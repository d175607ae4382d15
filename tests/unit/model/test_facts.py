"""The facts that outlive everything but the volume itself."""

import dataclasses

import pytest

from katacsi.backends.api import Facts, FormatState


@pytest.mark.parametrize("state", FormatState, ids=lambda state: state.value)
def test_a_copy_inherits_how_far_its_source_was(state):
    """What was said about the bytes stays true of their copy; what was said about a guest does not."""
    source = Facts(state, "ext4", "u", guest_written=True, pending_size=7)
    copy = source.of_copy()
    assert (copy.format, copy.fs_type, copy.fs_uuid, copy.guest_written) == (state, "ext4", "u", True)
    assert copy.pending_size == 0
    assert copy.inherited_uuid is (state is not FormatState.UNFORMATTED)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Facts)])
def test_one_fact_changes_alone(field):
    """Changing a fact leaves the others, and the facts that were read, as they are."""
    before = Facts()
    value = {"format": FormatState.FORMATTED, "pending_size": 5, "fs_type": "xfs", "fs_uuid": "u"}.get(
        field, True
    )
    after = before.with_(**{field: value})
    assert dataclasses.asdict(after) == dataclasses.asdict(before) | {field: value}
    assert before == Facts()


def test_a_misspelt_fact_is_refused():
    """There is no silent fact."""
    with pytest.raises(TypeError):
        Facts().with_(guest_writen=True)
