"""What the process does with memory that it has freed."""

from __future__ import annotations

import ctypes
from typing import Final

#: Source: malloc.h of the GNU C library. Others have no mallopt, or one that refuses.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8

#: What both thresholds are at first. Each large buffer that is freed raises them, up to 32 MiB.
_LARGE_BYTES: Final = 128 << 10


def give_back() -> None:
    """Have the C library give freed memory back to the system, in every thread.

    A driver is idle for most of its life. Without this it keeps what its busiest moment took: an arena for
    each thread of host steps, and the room of buffers of a megabyte between lasting small pieces. A buffer
    that is mapped and unmapped each time costs microseconds.
    """
    try:
        mallopt = ctypes.PyDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
    # One thread at a time runs Python, so they do not wait for each other here.
    mallopt(_ARENA_MAX, 1)
