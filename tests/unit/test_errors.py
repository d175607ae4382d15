"""The tree of errors."""

import inspect

import pytest

from katacsi import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_of_one_tree_and_explains_itself(cls):
    """One `except KatacsiError` catches all that katacsi raises on purpose; each class has a meaning."""
    assert issubclass(cls, errors.KatacsiError)
    assert cls.__doc__
    assert isinstance(cls.retry_helps, bool)


def test_an_error_is_its_message():
    """What is logged, what is raised and what the caller reads are the same words."""
    error = errors.VolumeInUse("volume x: is in use at /y; unpublish it first")
    assert str(error) == error.message == "volume x: is in use at /y; unpublish it first"


def test_a_bad_field_is_named_first():
    """A caller sees which field to correct before why."""
    error = errors.InvalidRequest("target_path", "is empty")
    assert (error.field, str(error)) == ("target_path", "target_path: is empty")


@pytest.mark.parametrize(
    ("cls", "worth_it"),
    [
        (errors.OperationPending, True),
        (errors.OutOfSpace, True),
        (errors.Unavailable, True),
        (errors.HostError, True),
        (errors.PoolUnavailable, True),
        (errors.CorruptRecord, False),
        (errors.Precondition, False),
        (errors.DataLossAlarm, False),
        (errors.ForeignContent, False),
        (errors.InvalidRequest, False),
        (errors.AlreadyExists, False),
        (errors.NotFound, False),
    ],
)
def test_whether_a_retry_helps(cls, worth_it):
    """What only a person can change is not retried, what passes is."""
    assert cls.retry_helps is worth_it


@pytest.mark.parametrize(
    "cls", [errors.DataLossAlarm, errors.ForeignContent, errors.VolumeInUse, errors.Unsupported]
)
def test_refusals_to_protect_bytes_are_preconditions(cls):
    """They reach the caller as FAILED_PRECONDITION, which no sidecar retries in a hurry."""
    assert issubclass(cls, errors.Precondition)


def test_could_not_look_is_never_not_found():
    """An unreadable record or a missing disk says nothing about whether the volume exists."""
    for cls in (errors.HostError, errors.CorruptRecord, errors.PoolUnavailable, errors.Precondition):
        assert not issubclass(cls, errors.NotFound)
