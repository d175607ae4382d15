"""What our pools refuse alike: each message names the object, the fact and the remedy."""

import pytest

from katacsi.backends.tools import refusals, sizes
from katacsi.backends.tools.parameters import check_known
from katacsi.errors import InvalidRequest, OutOfSpace, PoolUnavailable, Precondition, SizeOutOfRange
from katacsi.model import SizeRange, SnapshotId, VolumeId

HERE, ELSEWHERE = "0123abcd", "ffff0000"


def test_an_id_of_another_pool_is_not_absent():
    """The message says where the object lies, what is here, and how to come to it."""
    with pytest.raises(PoolUnavailable) as caught:
        refusals.check_own(
            VolumeId("fast", ELSEWHERE, "pvc-1"), "fast", HERE, storage="/pool", remedy="mount it"
        )
    message = caught.value.message
    assert message.startswith("volume ")
    assert f"pool storage {ELSEWHERE}, but pool 'fast' on this node is {HERE} (/pool)" in message
    assert message.endswith("ask the node that has it, or mount it")


def test_a_source_elsewhere_is_copied_there():
    """It is no lack of the source: the error is the one that makes the caller try another node."""
    with pytest.raises(OutOfSpace, match="a copy is made where its source lies"):
        refusals.check_source(SnapshotId("fast", ELSEWHERE, "s"), "fast", HERE)


def test_what_is_in_order_passes():
    """None of the refusals stands in the way of a legal request."""
    mine = VolumeId("renamed", HERE, "pvc-1")  # an operator may rename a pool; its storage is what counts
    refusals.check_own(mine, "fast", HERE, storage="/pool", remedy="mount it")
    refusals.check_source(mine, "fast", HERE)
    refusals.check_writable("fast", read_only=False)
    check_known({"type": "thin"}, {"type": "…"}, "lvm.katacsi.io/")
    for required in (0, 10, 11):
        assert sizes.fitting(SizeRange(required), 10, 1, 1, "") == max(10, required)


def test_a_viewed_pool_is_not_changed():
    """Only the driver changes a pool; a command that looks at it does not."""
    with pytest.raises(Precondition, match="pool 'fast' was opened for viewing"):
        refusals.check_writable("fast", read_only=True)


def test_an_unknown_parameter_is_named_in_full():
    """The full key is what stands in the StorageClass; so are the keys that would be legal."""
    with pytest.raises(InvalidRequest, match=r"x\.katacsi\.io/b.*known are x\.katacsi\.io/a"):
        check_known({"a": "1", "b": "2"}, {"a": "…"}, "x.katacsi.io/")


def test_a_copy_is_no_smaller_than_its_source():
    """A size below the source's would cut the filesystem off."""
    with pytest.raises(SizeOutOfRange, match="9 bytes were asked for; ask for the 10 of the source"):
        sizes.fitting(SizeRange(9), 10, 1, 1, "")
