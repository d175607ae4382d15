"""What a pool promises, and what it refuses to."""

import threading
from pathlib import Path

import pytest

from katacsi.backends.loopfile import LoopfileSettings
from katacsi.backends.loopfile.accounting import Accounting
from katacsi.backends.loopfile.layout import ObjectFolder
from katacsi.backends.loopfile.settings import Allocation
from katacsi.errors import OutOfSpace
from katacsi.host.directories import Room
from katacsi.model import GIB

SPARSE, THICK = Allocation.SPARSE, Allocation.THICK
A, B = Path("a"), Path("b")
EMPTY = Room(100 * GIB, 100 * GIB, read_only=False)


def accounting(room=EMPTY, **settings):
    accounting = Accounting("pool", LoopfileSettings(directory="/pool", **settings))
    accounting.count([], room)
    return accounting


def test_every_promise_can_be_kept_by_default():
    """Sparse volumes take nothing yet, and still no more is promised than there is."""
    book = accounting()
    book.promise(A, 60 * GIB, SPARSE, EMPTY)
    assert book.available(SPARSE, EMPTY) == 40 * GIB
    with pytest.raises(
        OutOfSpace, match=r"pool 'pool'.*50Gi were asked for.*40Gi can be given.*60Gi are promised"
    ):
        book.promise(B, 50 * GIB, SPARSE, EMPTY)
    book.release(A)
    assert book.available(SPARSE, EMPTY) == 100 * GIB


def test_what_others_store_is_not_promised():
    """On a filesystem that is shared with others, their part is nobody's."""
    shared = Room(100 * GIB, 70 * GIB, read_only=False)
    book = accounting(shared)
    book.promise(A, 50 * GIB, SPARSE, shared)
    assert book.available(SPARSE, shared) == 20 * GIB


def test_writing_costs_no_capacity_twice():
    """A volume that fills takes from the filesystem what was promised already."""
    book = accounting()
    book.promise(A, 50 * GIB, SPARSE, EMPTY)
    assert book.available(SPARSE, Room(100 * GIB, 50 * GIB, read_only=False)) == 50 * GIB


def test_the_ratio_promises_more_than_there_is():
    """With a ratio of 2, sparse volumes may be promised twice the pool; thick ones only what is free."""
    book = accounting(overprovision_ratio=2)
    book.promise(A, 150 * GIB, SPARSE, EMPTY)
    assert book.available(SPARSE, EMPTY) == 50 * GIB
    half = Room(100 * GIB, 10 * GIB, read_only=False)
    assert book.available(SPARSE, half) == 20 * GIB
    assert book.available(THICK, half) == 10 * GIB


def test_quota_and_reserve_are_kept():
    """A quota bounds the promises, a reserve is never given."""
    assert accounting(quota="30Gi").available(SPARSE, EMPTY) == 30 * GIB
    assert accounting(reserve="30Gi").available(SPARSE, EMPTY) == 70 * GIB
    assert accounting(reserve="200Gi").available(SPARSE, EMPTY) == 0


def test_thick_files_in_the_making_are_counted():
    """A thick volume whose blocks the filesystem does not show yet is not given away a second time."""
    book = accounting(overprovision_ratio=10)
    book.promise(A, 60 * GIB, THICK, EMPTY)
    assert book.available(THICK, EMPTY) == 40 * GIB
    with pytest.raises(OutOfSpace):
        book.promise(B, 50 * GIB, THICK, EMPTY)
    book.settle(A, 60 * GIB)
    assert book.available(THICK, Room(100 * GIB, 40 * GIB, read_only=False)) == 40 * GIB


def test_growth_asks_for_the_difference():
    """A volume that grows needs room for its growth alone; a refused growth leaves its promise."""
    book = accounting()
    book.promise(A, 60 * GIB, SPARSE, EMPTY)
    book.promise(A, 100 * GIB, SPARSE, EMPTY)
    with pytest.raises(OutOfSpace):
        book.promise(A, 101 * GIB, SPARSE, EMPTY)
    assert book.available(SPARSE, EMPTY) == 0


def test_check_and_promise_are_one():
    """Of many that want the last room at once, exactly as many get it as there is room for."""
    book, got, refused = accounting(), [], []

    def ask(number):
        try:
            book.promise(Path(str(number)), 10 * GIB, SPARSE, EMPTY)
            got.append(number)
        except OutOfSpace:
            refused.append(number)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (10, 22)


def test_a_start_counts_what_is_there(tmp_path):
    """The promises of a former process are the lengths of its files; strangers' entries promise nothing."""
    folder = ObjectFolder("volume", tmp_path, "volume.json")
    for name, size in (("a", 1 << 20), ("b", 2 << 20)):
        folder.home(name).mkdir()
        with folder.disk(name).open("wb") as file:
            file.truncate(size)
    (tmp_path / "stranger").mkdir()
    (tmp_path / "file").write_bytes(b"x" * 4096)
    book = accounting()
    book.count([folder], EMPTY)
    assert book.available(SPARSE, EMPTY) == 100 * GIB - (3 << 20)
