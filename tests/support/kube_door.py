"""Sockets in the network namespace of a cluster, for a process that is outside.

A socket belongs to the namespace that its thread was in when it was made. So one thread enters, makes them
all, and whoever asked uses them.
"""

from __future__ import annotations

import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Self

CLONE_NEWNET = 0x40000000


class NetworkDoor:
    """A thread in the network namespace of a process; use it with `with`."""

    def __init__(self, pid: int) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(pid,))

    def connect(self, address: tuple[str, int], timeout_s: float) -> socket.socket:
        """Return a socket that is connected to an address inside.

        Raises:
            OSError: nobody answers there.
        """
        return self._thread.submit(socket.create_connection, address, timeout_s).result()

    def close(self) -> None:
        """End the thread; sockets that it made stay usable."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace of process {pid}")
    finally:
        os.close(namespace)
