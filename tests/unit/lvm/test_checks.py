"""What the backend tells `katacsi doctor` of a node: device-mapper, LVM and its locks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi.backends.examination import Examination, ExaminedPool
from katacsi.backends.lvm import LvmBackend, checks
from katacsi.backends.lvm.settings import LvmSettings
from katacsi.findings import Place, Unread, Verdict
from support.surroundings import Around, results

OK, NOTE, WARNING, FAILURE, UNKNOWN = Verdict
DENIED = Unread("denied")
THIN = {"thin_pool": "thin"}


def pool(**settings):
    return ExaminedPool("fast", "lvm", LvmSettings(volume_group="vg", **settings))


@pytest.mark.parametrize(
    ("settings", "loaded", "modules", "expected"),
    [
        ({}, None, frozenset(), FAILURE),
        ({}, frozenset(), frozenset(), OK),
        (THIN, frozenset({"thin-pool"}), frozenset(), OK),
        (THIN, frozenset(), frozenset({"dm_thin_pool"}), OK),
        (THIN, frozenset(), frozenset(), FAILURE),
        (THIN, DENIED, DENIED, UNKNOWN),
    ],
)
def test_device_mapper(settings, loaded, modules, expected):
    """The driver, and the target of the pool's own type."""
    result = checks._device_mapper(pool(**settings), loaded, Around(kernel_modules=modules))
    assert result.verdict is expected
    assert result.remedy or expected is OK


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.03.16(2)", OK), ("2.02.187(2)", FAILURE), ("3.0.1(1)", OK), ("", FAILURE), (DENIED, UNKNOWN)],
)
def test_version(version, expected):
    """One with what is used."""
    assert checks._version(pool(), version).verdict is expected


LOCKS = Place("/run/lock/lvm")


@pytest.mark.parametrize(
    ("locks", "contained", "expected"),
    [
        (LOCKS, False, OK),
        (replace(LOCKS, hosts=True), True, OK),
        (replace(LOCKS, hosts=False), True, FAILURE),
        (replace(LOCKS, exists=False), True, FAILURE),
        (replace(LOCKS, exists=False), False, OK),
        (DENIED, False, UNKNOWN),
    ],
)
async def test_locks(locks, contained, expected):
    """One set of locks for the node's LVM and ours; and an LVM that is not there is not known to be right."""
    node = Around(contained=contained, places={"/run/lock/lvm": locks})
    examination = Examination((pool(program="/nowhere/lvm"),), node)
    version, found = await results(LvmBackend.checks(), "pool-lvm", examination)
    assert (version.verdict, found.verdict) == (UNKNOWN, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, OK),
        ("devices {\n\tscan_lvs = 0\n}\n", OK),
        ("devices {\n\t# scan_lvs = 1\n}\n", OK),
        ("devices {\n\tscan_lvs = 1\n}\n", WARNING),
        (DENIED, UNKNOWN),
    ],
)
async def test_the_node_s_own_lvm(text, expected):
    """It should not look into what guests write."""
    node = Around(texts={} if text is None else {"/etc/lvm/lvm.conf": text})
    (found,) = await results(LvmBackend.checks(), "pool-lvm-scan", Examination((pool(),), node))
    assert found.verdict is expected


async def test_without_a_pool_there_is_nothing_to_say():
    """A node without LVM is none the worse for it."""
    for check in LvmBackend.checks():
        assert await results(LvmBackend.checks(), check.id, Examination((), Around())) == []
