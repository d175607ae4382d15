"""What the backend tells `katacsi doctor` of a node: the disk below a pool, and loop devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from katacsi.backends.examination import Examination, ExaminedPool
from katacsi.backends.loopfile import LoopfileBackend, checks
from katacsi.backends.loopfile.settings import LoopfileSettings
from katacsi.findings import Mounted, Place, Unread, Verdict
from support.surroundings import Around, results

OK, NOTE, WARNING, FAILURE, UNKNOWN = Verdict
DISK = Mounted("/srv", "xfs")


def pool(directory="/srv/pool", *, require_mount=False):
    own = LoopfileSettings(directory=directory, require_mount=require_mount)
    return ExaminedPool("default", "loopfile", own)


async def verdicts(check_id, examination):
    return [one.verdict for one in await results(LoopfileBackend.checks(), check_id, examination)]


@pytest.mark.parametrize(
    ("mounted", "path", "require_mount", "expected"),
    [
        (DISK, "/srv/pool", False, OK),
        (DISK, "/srv", True, OK),
        (DISK, "/srv", False, WARNING),
        (replace(DISK, read_only=True), "/srv/pool", False, FAILURE),
        (Mounted("/srv", "tmpfs"), "/srv/pool", False, FAILURE),
        (Mounted("/", "overlay"), "/srv/pool", False, FAILURE),
        (Mounted("/srv", "nfs4"), "/srv/pool", False, WARNING),
        (None, "/srv/pool", False, UNKNOWN),
    ],
)
async def test_disk_of_a_pool(mounted, path, require_mount, expected):
    """What is gone after a reboot loses data."""
    node = Around(places={path: Place(path, mounted=mounted)})
    examination = Examination((pool(path, require_mount=require_mount),), node)
    assert await verdicts("pool-disk", examination) == [expected]


async def test_a_folder_that_cannot_be_looked_at():
    """It is not known, and so is not said to be well; one that is missing the pool itself complains of."""
    path = "/srv/pool"
    for place, expected in ((Unread("denied"), [UNKNOWN]), (Place(path, exists=False), [])):
        assert await verdicts("pool-disk", Examination((pool(),), Around(places={path: place}))) == expected


@pytest.mark.parametrize(
    ("problem", "needed", "expected"),
    [("", True, OK), ("", False, OK), ("none", False, NOTE), ("none", True, FAILURE)],
)
def test_loop_devices(problem, needed, expected):
    """They matter to whom they serve."""
    assert checks._loop_devices(problem, needed=needed).verdict is expected


async def test_loop_devices_are_looked_at_before_there_is_a_pool():
    """Whoever chooses a backend wants to know."""
    (found,) = await results(LoopfileBackend.checks(), "pool-loop-devices", Examination((), Around()))
    assert found.verdict in {OK, NOTE}
