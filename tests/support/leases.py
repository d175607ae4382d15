"""Whether anybody has a file open, asked as the driver asks it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from katacsi.host import loopdevices, sizedfiles

if TYPE_CHECKING:
    from pathlib import Path


def opened_elsewhere(path: Path) -> bool | None:
    """Whether a process or a loop device has the file open; None: this filesystem gives no proof."""
    descriptor = loopdevices.open_backing(path, os.O_RDONLY | os.O_NONBLOCK)
    if descriptor is None:
        return True  # somebody has a lease on it
    try:
        return sizedfiles.is_shared(descriptor)
    finally:
        os.close(descriptor)
