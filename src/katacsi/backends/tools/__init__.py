"""What authors of backends need and katacsi has: public, and used by the backends that are built in.

Whatever says that it blocks is for a thread: `await off_loop(function, …)`.
"""

from katacsi.backends.tools.devices import (
    find_by_identity,
    identity_of,
    require_unheld,
    set_writable,
    size_of,
    zero,
)
from katacsi.backends.tools.existing import check_snapshot, check_volume
from katacsi.backends.tools.listing import page
from katacsi.backends.tools.parameters import check_known, one_of
from katacsi.backends.tools.poollock import PoolLock
from katacsi.backends.tools.records import RecordFolder
from katacsi.backends.tools.refusals import check_expected, check_own, check_source, check_writable
from katacsi.backends.tools.sizes import fitting, in_units
from katacsi.host.command import run as run_tool
from katacsi.host.offloop import off_loop

__all__ = [
    "PoolLock",
    "RecordFolder",
    "check_expected",
    "check_known",
    "check_own",
    "check_snapshot",
    "check_source",
    "check_volume",
    "check_writable",
    "find_by_identity",
    "fitting",
    "identity_of",
    "in_units",
    "off_loop",
    "one_of",
    "page",
    "require_unheld",
    "run_tool",
    "set_writable",
    "size_of",
    "zero",
]
