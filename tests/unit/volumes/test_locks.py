"""One call at a time for each volume and snapshot."""

import pytest

from katacsi.errors import OperationPending
from katacsi.volumes.locks import Locks, snapshot_lock, volume_lock


@pytest.mark.gate("one-lock-serialises-a-volume")
def test_a_second_call_is_told_to_retry():
    """A busy volume is never queued for: the caller hears at once which one is busy."""
    locks = Locks()
    with locks.hold(volume_lock("pvc-1")):
        with (
            pytest.raises(OperationPending, match="volume pvc-1") as refusal,
            locks.hold(volume_lock("pvc-1")),
        ):
            pytest.fail("two calls hold one volume")
        assert refusal.value.retry_helps
    with locks.hold(volume_lock("pvc-1")):
        pass


def test_all_or_none():
    """A call that needs two names and gets one holds neither."""
    locks = Locks()
    with locks.hold("b"), pytest.raises(OperationPending, match="b"), locks.hold("a", "b"):
        pytest.fail("b was held twice")
    with locks.hold("a", "b"):
        pass


def test_the_same_name_twice_is_one():
    """A volume that is its own neighbour (a clone under the name of its source) does not block itself."""
    locks = Locks()
    with locks.hold("a", "a"), pytest.raises(OperationPending), locks.hold("a"):
        pytest.fail("a was held twice")
    with locks.hold("a"):
        pass


def test_a_failure_lets_go():
    """An error inside does not leave the volume busy for ever."""
    locks = Locks()
    with pytest.raises(RuntimeError, match="inside"), locks.hold("a"):
        raise RuntimeError("inside")
    with locks.hold("a"):
        pass


def test_a_refused_call_does_not_let_go_for_another():
    """Who was refused has nothing to give back: the first holder still holds."""
    locks = Locks()
    with locks.hold("a"):
        for _ in range(2):
            with pytest.raises(OperationPending), locks.hold("a"):
                pytest.fail("a was held twice")


def test_volumes_and_snapshots_are_apart():
    """A snapshot may have the name of a volume."""
    locks = Locks()
    with locks.hold(volume_lock("x")), locks.hold(snapshot_lock("x")):
        pass
