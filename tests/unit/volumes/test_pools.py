"""Which pool a name or an id means."""

import asyncio

import pytest

from katacsi.backends.api import Features, Scope
from katacsi.errors import InvalidRequest, NotFound, OutOfSpace, PoolUnavailable, Precondition
from katacsi.model import SnapshotId, VolumeId
from katacsi.volumes.pools import Pool, Pools, parse_id


class Storage:
    """A backend that can be away, and knows volumes by their names."""

    def __init__(self, uid="0a1b2c3d", *, away=False, volumes=()):
        self.pool_uid = uid
        self.away = away
        self.volumes = volumes
        self.starts = 0
        self.closes = 0

    async def start(self):
        self.starts += 1
        await asyncio.sleep(0)
        if self.away:
            raise PoolUnavailable("the disk is away")

    async def close(self):
        self.closes += 1

    async def find(self, csi_name):
        return csi_name if csi_name in self.volumes else None


class WithCopies(Storage):
    """A backend that makes copies."""

    atomic_copies = False
    freezes = True


class WithGrowth(Storage):
    """A backend whose volumes grow."""

    async def expand(self, volume_id, size_bytes):
        raise AssertionError("that volumes grow follows from the method alone; nobody calls it")


def pool(name="default", storage=None, parameters=("allocation",)):
    """Make a pool of a backend called loopfile."""
    return Pool(name, "loopfile", storage or Storage(), Scope.LOCAL, dict.fromkeys(parameters, "described"))


@pytest.mark.parametrize(
    ("names", "wish", "chosen"),
    [
        (["only"], "", "only"),
        (["only"], "only", "only"),
        (["default", "fast"], "", "default"),
        (["default", "fast"], "fast", "fast"),
    ],
)
def test_the_pool_of_a_storage_class(names, wish, chosen):
    """The one named, else the only one, else the one called default."""
    assert Pools([pool(name) for name in names]).choose(wish).name == chosen


@pytest.mark.parametrize(
    ("names", "wish", "error"),
    [
        (["a", "b"], "", Precondition),
        (["a", "b"], "c", OutOfSpace),
        (["a"], "default", OutOfSpace),
        ([], "", Precondition),
    ],
)
def test_an_unclear_pool_is_refused_with_the_choice(names, wish, error):
    """A wrong or missing pool name is answered with the pools there are; an operator can mend either."""
    with pytest.raises(error) as refusal:
        Pools([pool(name) for name in names]).choose(wish)
    assert refusal.value.message.startswith("parameters[katacsi.io/pool]: ")
    assert (", ".join(names) or "none") in refusal.value.message


async def test_an_id_of_another_storage_is_not_absent():
    """A volume of a pool that was replaced, or of another node, is never taken for deleted."""
    pools = Pools([pool("default", Storage("0a1b2c3d"))])
    assert (await pools.holding(VolumeId("default", "0a1b2c3d", "x"))).pool_uid == "0a1b2c3d"
    with pytest.raises(Precondition, match="another node"):
        await pools.holding(VolumeId("default", "ffffffff", "x"))
    with pytest.raises(Precondition, match="not configured"):
        await pools.holding(SnapshotId("fast", "0a1b2c3d", "x"))


async def test_a_pool_that_is_away_hinders_no_other():
    """A missing disk is logged at the start; the pool is tried again at its next use."""
    away, there = Storage(away=True), Storage()
    pools = Pools([pool("away", away), pool("there", there)])
    await pools.start()
    assert await pools.choose("there").open() is there
    with pytest.raises(PoolUnavailable):
        await pools.choose("away").open()
    away.away = False
    assert await pools.choose("away").open() is away
    await pools.close()
    assert (away.closes, there.closes) == (1, 1)


async def test_a_pool_is_opened_once():
    """Calls that come at once share one start, and a pool that never opened is not closed."""
    storage, never = Storage(), Storage(away=True)
    pools = Pools([pool("a", storage), pool("b", never)])
    await asyncio.gather(*(pools.choose("a").open() for _ in range(5)))
    assert storage.starts == 1
    await pools.close()
    assert (storage.closes, never.closes) == (1, 0)


async def test_a_name_is_looked_up_in_all_other_pools():
    """A name taken in another pool is found there, past a pool that is away."""
    here = pool("a", Storage(volumes=["pvc-1"]))
    pools = Pools([here, pool("b", Storage(away=True)), pool("c", Storage(volumes=["pvc-2"]))])
    assert await pools.elsewhere("pvc-2", here) == "pvc-2"
    assert await pools.elsewhere("pvc-1", here) is None


def test_features_are_the_union():
    """What one pool can do the release advertises."""
    pools = Pools(
        [
            pool("a", WithCopies()),
            pool("b", WithGrowth()),
        ]
    )
    assert pools.features == Features(clones=True, expand=True, freezes=True)
    assert Pools([]).features == Features()


@pytest.mark.gate("unknown-parameter-is-refused-at-create")
@pytest.mark.parametrize(
    ("backend", "parameters", "field", "says"),
    [
        ("lvm", {"type": "thin"}, "parameters[lvm.katacsi.io/…]", "loopfile pool"),
        (
            "loopfile",
            {"alocation": "thick"},
            "parameters[loopfile.katacsi.io/alocation]",
            "loopfile.katacsi.io/allocation",
        ),
    ],
)
def test_a_parameter_that_the_pool_does_not_know(backend, parameters, field, says):
    """Keys of another backend, and misspelt ones, are refused with those that are legal."""
    with pytest.raises(InvalidRequest) as refusal:
        pool().check_parameters(backend, parameters)
    assert refusal.value.field == field
    assert says in refusal.value.message


@pytest.mark.parametrize(
    "text", ["", "pvc-1", "v1:default", "s1:default:0a1b2c3d:x", "v1:default:0a1b2c3d:../x"]
)
def test_a_malformed_id_names_nothing(text):
    """There is no volume by an id that this driver never gave out."""
    with pytest.raises(NotFound):
        parse_id(VolumeId, text)
