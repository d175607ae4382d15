"""What is written on an LV is read back, whatever people call their volumes; nothing else is believed."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katacsi.backends.api import Facts, FormatState
from katacsi.backends.lvm import tags
from katacsi.backends.lvm.settings import Wipe
from katacsi.backends.lvm.tags import Kind, Record, State
from katacsi.errors import CorruptRecord, InvalidRequest

RECORD = Record(Kind.VOLUME, State.READY, "local.katacsi.io", "default", "pvc-1", 1795387061.25)

#: lvm(8): what a tag may consist of.
TAG = re.compile(r"[A-Za-z0-9_+.\-/=!:&#]{1,1024}\Z")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
facts = st.builds(
    Facts,
    format=st.sampled_from([FormatState.FORMATTING, FormatState.FORMATTED]),
    fs_type=st.sampled_from(["ext4", "xfs", "btrfs"]),
    fs_uuid=texts,
    guest_written=st.booleans(),
    raw_written=st.booleans(),
    inherited_uuid=st.booleans(),
    pending_size=st.integers(0, 1 << 60),
    growing=st.integers(0, 1 << 60),
    others=st.sampled_from([(), (("later", "a=b"), ("latest", "true"))]),
)
records = st.builds(
    Record,
    kind=st.sampled_from(Kind),
    state=st.sampled_from(State),
    driver=st.just("local.katacsi.io"),
    pool=st.just("default"),
    csi_name=texts,
    created_at=st.floats(0, 1e11),
    source=st.sampled_from(["", "v1:default:01234567:a", "s1:default:01234567:b"]),
    facts=st.one_of(facts, st.just(Facts())),
    parameters=st.dictionaries(texts, texts, max_size=3),
    attributes=st.dictionaries(texts, texts, max_size=3),
    wipe=st.sampled_from(Wipe),
    layout=st.sampled_from(["", "linear:1:0:1:0::"]),
)


@given(records)
def test_a_record_is_read_back(record):
    """Tags have only LVM's characters, and say what they were made of."""
    written = record.tags()
    assert all(TAG.match(tag) for tag in written)
    assert tags.parse(written | {"somebody-elses", "katacsi"}, "vg/lv") == record


@given(records, records)
def test_only_what_differs_is_replaced(old, new):
    """Taking the old tags away and adding the new ones gives the new record; strangers' tags stay."""
    before = old.tags() | {"backup=daily"}
    after = (before - (old.tags() - new.tags())) | (new.tags() - old.tags())
    assert tags.parse(after, "vg/lv") == new
    assert "backup=daily" in after


def test_facts_of_a_later_version_are_kept():
    """A tag of ours that this version does not know stays through its changes, and goes to copies."""
    record = tags.parse(RECORD.tags() | {"katacsi.io/encrypted=+7b:a", "backup=daily"}, "vg/lv")
    assert record.facts == Facts(others=(("encrypted", "{:a"),))
    changed = record.with_(facts=record.facts.with_(raw_written=True))
    assert record.tags() - changed.tags() == set()
    assert changed.tags() - record.tags() == {"katacsi.io/raw-written=true"}
    assert "katacsi.io/encrypted=+7b:a" in record.with_(facts=changed.facts.of_copy()).tags()


def test_tags_can_be_read_by_people():
    """The format state stands in the tags as the documentation shows it."""
    facts = Facts(FormatState.FORMATTED, "ext4", "6b1f2a52-0e5c-4c8e-9a53-000000000001")
    written = RECORD.with_(facts=facts).tags()
    assert "katacsi.io/formatted=ext4:6b1f2a52-0e5c-4c8e-9a53-000000000001" in written
    assert {"katacsi.io/name=pvc-1", "katacsi.io/state=ready", "katacsi.io/kind=volume"} <= written


def test_strangers_are_none_of_ours():
    """An LV without our tags is nobody's business."""
    assert tags.parse(frozenset({"backup=daily"}), "vg/lv") is None
    assert tags.parse(frozenset(), "vg/lv") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"katacsi.io/state=half"},
        {"katacsi.io/created=yesterday"},
        {"katacsi.io/name=pvc-2"},
        {"katacsi.io/source=somewhere"},
        {"katacsi.io/formatting=ext4:1", "katacsi.io/formatted=ext4:1"},
        {"katacsi.io/pending-size=much"},
        {"katacsi.io/source=+zz"},
    ],
    ids=min,
)
def test_damaged_tags_are_an_error(damage):
    """What was changed by hand is neither believed nor taken for absent; the LV is named."""
    written = RECORD.tags()
    if len(damage) == 1:
        key = min(damage).split("=")[0]
        if key != "katacsi.io/name":
            written = frozenset(tag for tag in written if not tag.startswith(key))
    with pytest.raises(CorruptRecord, match="vg/lv"):
        tags.parse(written | damage, "vg/lv")


def test_what_no_tag_can_hold_is_refused():
    """A value that is longer than a tag is refused by its name, before anything is made."""
    with pytest.raises(InvalidRequest, match="mkfs-options"):
        replace(RECORD, attributes={"mkfs-options": "x" * 1024}).tags()
