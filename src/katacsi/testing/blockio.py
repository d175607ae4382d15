"""The bytes of a block device, for tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from katacsi.model import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.backends.api import Device

_CHUNK = 4 * MIB


@contextlib.contextmanager
def held(device: Device) -> Iterator[int]:
    """Hold a device open, exclusively, as a mount does; gives its descriptor."""
    fd = os.open(device.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def held_by_guest(device: Device) -> Iterator[None]:
    """Have another process hold a device open as a virtual machine does: QEMU opens it without O_EXCL."""
    with (
        device.path.open("r+b", buffering=0) as opened,
        subprocess.Popen(["/bin/sleep", "infinity"], stdin=opened) as guest,
    ):
        opened.close()
        try:
            yield
        finally:
            guest.kill()


def write(device: Device, data: bytes, offset: int = 0) -> None:
    """Write to a device, and wait until it is there."""
    with held(device) as fd:
        _write(fd, data, offset)
        os.fsync(fd)


def fill(device: Device, byte: bytes) -> None:
    """Write one byte all over a device."""
    with held(device) as fd:
        for offset in range(0, device.size_bytes, _CHUNK):
            _write(fd, byte * min(_CHUNK, device.size_bytes - offset), offset)
        os.fsync(fd)


def read(device: Device, length: int, offset: int = 0) -> bytes:
    """Read from a device."""
    with held(device) as fd:
        return _read(fd, length, offset)


def first_data(device: Device) -> int | None:
    """Say where a device first reads as other than zero; None: nowhere."""
    zeros = bytes(_CHUNK)
    with held(device) as fd:
        for offset in range(0, device.size_bytes, _CHUNK):
            chunk = _read(fd, min(_CHUNK, device.size_bytes - offset), offset)
            if chunk != zeros[: len(chunk)]:
                return offset + len(chunk) - len(chunk.lstrip(b"\0"))
    return None


def _write(fd: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _read(fd: int, length: int, offset: int) -> bytes:
    chunks = []
    while length and (chunk := os.pread(fd, length, offset)):
        chunks.append(chunk)
        length, offset = length - len(chunk), offset + len(chunk)
    return b"".join(chunks)
