"""Which way a volume goes to its pod: the one table of docs/modes.md."""

import itertools

import pytest

from katacsi.errors import Precondition
from katacsi.model import AccessType
from katacsi.volumes.publish.mode import Asked, Mode, PodRuntime, decide

BLOCK, FILESYSTEM = AccessType.BLOCK, AccessType.MOUNT

#: Every combination of a filesystem volume; what a block volume asks for and runs in does not matter.
TABLE = {
    (Asked.HOST, PodRuntime.KATA): Mode.HOST,
    (Asked.HOST, PodRuntime.OTHER): Mode.HOST,
    (Asked.HOST, PodRuntime.NO_CLUSTER): Mode.HOST,
    (Asked.DIRECT, PodRuntime.KATA): Mode.DIRECT,
    (Asked.DIRECT, PodRuntime.OTHER): Precondition,
    (Asked.DIRECT, PodRuntime.NO_CLUSTER): Mode.DIRECT,
    (Asked.AUTO, PodRuntime.KATA): Mode.DIRECT,
    (Asked.AUTO, PodRuntime.OTHER): Mode.HOST,
    (Asked.AUTO, PodRuntime.NO_CLUSTER): Mode.HOST,
}

ROWS = [
    pytest.param(FILESYSTEM, *row, expected, id=f"filesystem-{row[0].value}-{row[1].value}")
    for row, expected in TABLE.items()
] + [
    pytest.param(BLOCK, asked, runtime, Mode.BLOCK, id=f"block-{asked.value}-{runtime.value}")
    for asked, runtime in itertools.product(Asked, PodRuntime)
]


def test_the_table_is_whole():
    """Nothing is left to chance: each combination has its row."""
    assert set(TABLE) == set(itertools.product(Asked, PodRuntime))


@pytest.mark.gate("one-mode-decision")
@pytest.mark.parametrize(("access", "asked", "runtime", "expected"), ROWS)
def test_the_mode_decision(access, asked, runtime, expected):
    """The mode follows from access type, wish and runtime."""
    if isinstance(expected, Mode):
        assert decide(access, asked, runtime) is expected
    else:
        with pytest.raises(expected):
            decide(access, asked, runtime)


def test_a_refusal_says_what_to_change():
    """A pod without Kata that would write into an empty directory is told of all its ways out."""
    with pytest.raises(Precondition) as refusal:
        decide(FILESYSTEM, Asked.DIRECT, PodRuntime.OTHER, volume="volume pvc-7")
    for words in ("volume pvc-7", "runtimeClassName", "katacsi.io/direct", "StorageClass"):
        assert words in refusal.value.message
