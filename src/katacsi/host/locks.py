# ruff: noqa: PTH116 -- descriptors decide here; pathlib has none
"""Locks that exclude other processes and other threads alike, each standing for a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from katacsi.host import _linux
from katacsi.host._linux import Held

if TYPE_CHECKING:
    from pathlib import Path


__all__ = ["Held", "lock_file", "unlock"]


def lock_file(path: Path, timeout_s: float) -> int:
    """Take the exclusive lock that a file stands for; give the descriptor that holds it, for `unlock`.

    It excludes other processes and other threads alike, and goes with the process that held it. The file is
    made if missing and never removed: with two files of that name there would be two holders.

    Raises:
        Held: somebody held it for all of `timeout_s` seconds.
        HostError: the file cannot be made.
    """
    try:
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _linux.flock_within(fd, path, timeout_s)
                if _is_still(path, fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as error:
        raise _linux.failure(f"lock {path}", error) from error


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def unlock(fd: int) -> None:
    """Let go of a lock taken with `lock_file`."""
    os.close(fd)
