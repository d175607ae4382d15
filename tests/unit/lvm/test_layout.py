"""StorageClass parameters become layouts; whatever would silently be something else is refused."""

import pytest

from katacsi.backends.lvm import layout as layouts
from katacsi.backends.lvm.layout import Layout
from katacsi.backends.lvm.settings import LvmSettings, VolumeType, Wipe
from katacsi.errors import InvalidRequest

SETTINGS = LvmSettings(volume_group="vg", thin_pool="pool", type="linear")

LEGAL = {
    "nothing said": ({}, Layout(), 1),
    "linear": ({"type": "linear", "wipe": "zero"}, Layout(wipe=Wipe.ZERO), 1),
    "striped": (
        {"type": "striped", "stripes": "3", "stripe-size": "128Ki"},
        Layout(VolumeType.STRIPED, stripes=3, stripe_size=131072),
        3,
    ),
    "raid1": ({"type": "raid1"}, Layout(VolumeType.RAID1, copies=2), 2),
    "raid1 of three": ({"type": "raid1", "mirrors": "2"}, Layout(VolumeType.RAID1, copies=3), 3),
    "raid5": ({"type": "raid5"}, Layout(VolumeType.RAID5, stripes=2, stripe_size=65536, parity=1), 3),
    "raid6": ({"type": "raid6"}, Layout(VolumeType.RAID6, stripes=3, stripe_size=65536, parity=2), 5),
    "raid10": ({"type": "raid10"}, Layout(VolumeType.RAID10, stripes=2, stripe_size=65536, copies=2), 4),
    "integrity": (
        {"type": "raid1", "integrity": "true"},
        Layout(VolumeType.RAID1, copies=2, integrity=True),
        2,
    ),
    "thin": ({"type": "thin"}, Layout(VolumeType.THIN, thin_pool="pool"), 1),
    "another thin pool": (
        {"type": "thin", "thin-pool": "fast", "wipe": "discard"},
        Layout(VolumeType.THIN, thin_pool="fast", wipe=Wipe.DISCARD),
        1,
    ),
}

ILLEGAL = {
    "unknown key": ({"stripe": "2"}, "lvm.katacsi.io/stripe:"),
    "unknown type": ({"type": "mirror"}, "lvm.katacsi.io/type:"),
    "stripes of a linear volume": ({"stripes": "2"}, "lvm.katacsi.io/stripes:"),
    "mirrors of a striped volume": ({"type": "striped", "mirrors": "1"}, "lvm.katacsi.io/mirrors:"),
    "one stripe": ({"type": "striped", "stripes": "1"}, "lvm.katacsi.io/stripes:"),
    "two stripes of raid6": ({"type": "raid6", "stripes": "2"}, "lvm.katacsi.io/stripes:"),
    "no mirror": ({"type": "raid1", "mirrors": "0"}, "lvm.katacsi.io/mirrors:"),
    "stripes in words": ({"type": "raid5", "stripes": "three"}, "lvm.katacsi.io/stripes:"),
    "odd stripe size": ({"type": "striped", "stripe-size": "100k"}, "lvm.katacsi.io/stripe-size:"),
    "stripe size in words": ({"type": "striped", "stripe-size": "big"}, "lvm.katacsi.io/stripe-size:"),
    "integrity without copies": ({"type": "striped", "integrity": "true"}, "lvm.katacsi.io/integrity:"),
    "integrity: yes": ({"type": "raid1", "integrity": "yes"}, "lvm.katacsi.io/integrity:"),
    "thin pool of a linear volume": ({"thin-pool": "pool"}, "lvm.katacsi.io/thin-pool:"),
    "option as thin pool": ({"type": "thin", "thin-pool": "--yes"}, "lvm.katacsi.io/thin-pool:"),
    "zeroed thin volume": ({"type": "thin", "wipe": "zero"}, "lvm.katacsi.io/wipe:"),
    "unknown wipe": ({"wipe": "shred"}, "lvm.katacsi.io/wipe:"),
}


@pytest.mark.parametrize(("parameters", "layout", "legs"), LEGAL.values(), ids=LEGAL.keys())
def test_legal_parameters(parameters, layout, legs):
    """Each legal set of parameters is one layout, which is written on the volume and read back."""
    parsed = layouts.parse(parameters, SETTINGS)
    assert parsed == layout
    assert parsed.legs == legs
    assert Layout.of_text(parsed.text(), parsed.wipe) == parsed


@pytest.mark.parametrize(("parameters", "message"), ILLEGAL.values(), ids=ILLEGAL.keys())
@pytest.mark.gate("unknown-parameter-is-refused-at-create")
def test_illegal_parameters(parameters, message):
    """What is unknown, malformed or says nothing about volumes of its type is refused by its full key."""
    with pytest.raises(InvalidRequest, match=message):
        layouts.parse(parameters, SETTINGS)


def test_the_pool_says_what_the_class_does_not():
    """The pool's type is the default; with a thin pool and without a type it is thin."""
    assert layouts.parse({}, LvmSettings(volume_group="vg", type="raid1")).type is VolumeType.RAID1
    assert layouts.parse({}, LvmSettings(volume_group="vg", thin_pool="pool")).thin_pool == "pool"
    with pytest.raises(InvalidRequest, match="thin-pool"):
        layouts.parse({"type": "thin"}, LvmSettings(volume_group="vg"))


def test_sizes_are_rounded_up_to_whole_stripes():
    """LVM would round a size that is no multiple of the stripes, so it is rounded first: always up."""
    assert Layout(VolumeType.RAID5, stripes=3, parity=1).fitting(4) == 6
    assert Layout(VolumeType.RAID1, copies=2).fitting(4) == 4


def test_lvm_is_told_the_layout():
    """The arguments name the type, so that LVM cannot choose another."""
    words = layouts.parse({"type": "raid10", "integrity": "true"}, SETTINGS).arguments()
    assert words == [
        "--type", "raid10", "--stripes", "2", "--stripesize", "65536b",
        "--mirrors", "1", "--raidintegrity", "y",
    ]  # fmt: skip
