"""The table from errors to gRPC codes."""

from __future__ import annotations

import pytest
from grpclib.const import Status

from katacsi import errors
from katacsi.backends import loopfile  # noqa: F401  # so that errors defined there are known
from katacsi.rpc.status import MAX_MESSAGE_BYTES, TABLE, cut, status_of


def descendants(family: type) -> list[type]:
    return [each for child in family.__subclasses__() for each in (child, *descendants(child))]


@pytest.mark.parametrize("error", descendants(errors.KatacsiError), ids=lambda error: error.__name__)
def test_every_error_has_a_status_by_its_own_family(error):
    """A new class of error cannot reach a caller by the bare root of the tree: its family has a code."""
    families = [family for family in error.__mro__ if family is not errors.KatacsiError]
    assert any(family in TABLE for family in families)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("name", "is empty"), Status.INVALID_ARGUMENT),
        (errors.SizeOutOfRange("x"), Status.OUT_OF_RANGE),
        (errors.NotFound("x"), Status.NOT_FOUND),
        (errors.AlreadyExists("x"), Status.ALREADY_EXISTS),
        (errors.InvalidPageToken("x"), Status.ABORTED),
        (errors.OperationPending("x"), Status.ABORTED),
        (errors.VolumeInUse("x"), Status.FAILED_PRECONDITION),
        (errors.DataLossAlarm("x"), Status.FAILED_PRECONDITION),
        (errors.Unsupported("x"), Status.FAILED_PRECONDITION),
        (errors.OutOfSpace("x"), Status.RESOURCE_EXHAUSTED),
        (errors.Unavailable("x"), Status.UNAVAILABLE),
        (errors.HostError("x"), Status.INTERNAL),
        (errors.CorruptRecord("x"), Status.INTERNAL),
        (errors.SettingsError("x"), Status.FAILED_PRECONDITION),
        (TimeoutError(), Status.DEADLINE_EXCEEDED),
        (ValueError("x"), Status.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_codes_are_those_of_the_specification(error, status):
    """Each kind of failure has the code that CSI's tables give it, and an unforeseen one INTERNAL."""
    assert status_of(error) is status


def test_nearest_base_class_wins():
    """PoolUnavailable is a HostError with a code of its own, and so is whatever derives from it."""

    class DiskAway(errors.PoolUnavailable):
        pass

    assert status_of(DiskAway("x")) is Status.UNAVAILABLE


def test_long_message_is_cut_between_characters():
    """A message fits its limit, and its end is a whole character followed by a sign that more was said."""
    message = cut("ü" * MAX_MESSAGE_BYTES)
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    assert set(message) == {"ü", "…"}


def test_message_that_is_no_utf8_can_still_be_sent():
    """A lone surrogate (an undecodable byte of a file name) does not keep the answer from being sent."""
    assert cut("name \udcff") == "name \\udcff"
