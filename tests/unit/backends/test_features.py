"""What a pool can do is what its class has methods for."""

import pytest

from katacsi.backends.api import Features, features_of
from katacsi.backends.loopfile import LoopfileBackend
from katacsi.backends.lvm import LvmBackend


class Plain:
    """A backend that leaves out whatever it may."""


class Growing(Plain):
    """One whose volumes grow."""

    async def expand(self, volume_id, size_bytes):
        raise AssertionError("a feature follows from the method alone; nobody calls it")


class Copying(Plain):
    """One that makes copies; whether they are atomic is known after its start."""

    freezes = False

    def __init__(self):
        self.atomic_copies = True


class Snapshotting(Copying):
    """One with snapshots."""

    async def _method(self, *args):
        raise AssertionError("a feature follows from the method alone; nobody calls it")

    create_snapshot = delete_snapshot = get_snapshot = find_snapshot = list_snapshots = _method


@pytest.mark.parametrize(
    ("backend", "features"),
    [
        (Plain(), Features()),
        (Growing(), Features(expand=True)),
        (Copying(), Features(clones=True, atomic_copies=True)),
        (Snapshotting(), Features(snapshots=True, clones=True, atomic_copies=True)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_features_follow_from_methods(backend, features):
    """A method that is left out is a feature that is not advertised."""
    assert features_of(backend) == features


@pytest.mark.parametrize("backend", [LoopfileBackend, LvmBackend])
def test_a_local_backend_has_no_method_that_only_raises(backend):
    """Fencing is for storage that other nodes reach."""
    assert not hasattr(backend, "publish")
    assert not hasattr(backend, "unpublish")
