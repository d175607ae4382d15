"""What `katacsi doctor` looks at for this backend. A backend need not have any checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.api import BackendChecks
from katacsi.findings import Harm, ok, warning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.api import Examination
    from katacsi.findings import Result

    from katacsi_backend_example.backend import DisksSettings

CHECKS: BackendChecks[DisksSettings] = BackendChecks("Pools")


@CHECKS.add(
    "pool-disk-names",
    "the names of the disks of a `disks` pool",
    Harm.DATA,
    "After a reboot /dev/sdb may be another disk; a name in /dev/disk is always the same one's.",
)
async def disk_names(examination: Examination[DisksSettings]) -> AsyncIterator[Result]:
    """Look how the disks are named."""
    for pool in examination.pools:
        passing = [str(path) for path in pool.settings.devices if "/dev/disk/" not in str(path)]
        if passing:
            fact = f"{', '.join(passing)} may be another disk after a reboot"
            yield warning(pool.subject, fact, "name it as in /dev/disk/by-id")
        else:
            yield ok(pool.subject, "its disks have names that stay")
