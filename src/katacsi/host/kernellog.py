# ruff: noqa: PTH -- read(2) gives the log's records one by one, from a descriptor only
"""The kernel's own log, as far as it still has it and lets us read it."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from katacsi.host import _linux

_DEVICE: Final = "/dev/kmsg"
#: A record is at most this long (PRINTK_MESSAGE_MAX and what kmsg puts before it).
_RECORD_BYTES: Final = 8192
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")


def lines() -> list[str]:
    """Give the lines that there are, oldest first, each with the seconds since boot at which it was written.

    Raises:
        HostError: they cannot be read; in a container they may be kept from it.

    Source: Documentation/ABI/testing/dev-kmsg.
    """
    found: list[str] = []
    try:
        fd = os.open(_DEVICE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _linux.failure(f"read {_DEVICE}", error) from error
    try:
        while True:
            try:
                record = os.read(fd, _RECORD_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten meanwhile: the next read goes on after it
                    continue
                raise _linux.failure(f"read {_DEVICE}", error) from error
            if not record:
                return found
            found.append(_line(record))
    finally:
        os.close(fd)


def _line(record: bytes) -> str:
    head, _, text = record.decode(errors="replace").partition(";")
    microseconds = head.split(",")[2] if head.count(",") >= 2 else "0"
    message = _ESCAPED.sub(lambda code: chr(int(code[1], 16)), text.split("\n", 1)[0])
    return f"[{int(microseconds) / 1e6:12.6f}] {message}"
