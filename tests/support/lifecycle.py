"""One volume as its callers see it: the sidecars' and the kubelet's RPCs, and the workload's bytes."""

from __future__ import annotations

import ctypes
import os
import random
from typing import TYPE_CHECKING, Any, Protocol

from katacsi.testing import kubelet, leaks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from katacsi.csi.client import Client

MIB = 1 << 20
DIRECT = "katacsi.io/direct"

#: The smallest sizes that are quick: xfs refuses less than 300 MiB, btrfs less than 109.
SIZES = {"ext4": 32 * MIB, "xfs": 304 * MIB, "btrfs": 128 * MIB, "": 16 * MIB}

_BLOCK_DATA_AT = MIB
_DATA_BYTES = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Serving(Protocol):
    """Where a volume lives: a driver with its folders, and a client that changes with each restart."""

    client: Client | None
    pool: Path
    pods: Path
    staging: Path
    scratch: Path


class Life(kubelet.Volume):
    """A volume, from its name to its last byte.

    Attributes:
        way: `direct`, `host` or `block`.
        fs_type: empty for block.
    """

    def __init__(
        self,
        driver: Serving,
        name: str,
        way: str,
        fs_type: str = "",
        *,
        size: int = 0,
        parameters: Mapping[str, str] | None = None,
        **wishes: Any,
    ) -> None:
        super().__init__(
            name,
            staging=driver.staging / name,
            target=driver.pods / name / "mount",
            size=size or SIZES[fs_type],
            fs_type=fs_type,
            block=way == "block",
            parameters={DIRECT: "true" if way == "direct" else "false", **(parameters or {})},
            **wishes,
        )
        self.driver = driver
        self.way = way
        self.fs_type = fs_type

    @property
    def client(self) -> Client:
        """The client of the driver that runs now."""
        assert self.driver.client is not None, "the driver does not run"
        return self.driver.client

    # -- the workload ----------------------------------------------------------------------------------

    @property
    def disk(self) -> Path:
        """The file that holds its bytes."""
        return self.driver.pool / "volumes" / self.name / "disk.img"

    def device(self) -> Path:
        """The loop device that it has; there has to be exactly one."""
        devices = list(leaks.loops_below(self.disk.parent))
        assert len(devices) == 1, f"{self.name} has {devices}"
        return devices[0]

    def write(self, seed: int = 0) -> None:
        """Write bytes the way its workload does, durably."""
        data = pattern(self.name, seed)
        if self.way == "block":
            _write_at(self.target, data, _BLOCK_DATA_AT)
        elif self.way == "host":
            _write_file(self.target / f"data-{seed}", data)
        else:
            with Guest(self) as mounted:
                _write_file(mounted / f"data-{seed}", data)

    def read(self, seed: int = 0) -> bytes:
        """Read what was written, the way its workload does."""
        if self.way == "block":
            with self.target.open("rb", buffering=0) as device:
                return os.pread(device.fileno(), _DATA_BYTES, _BLOCK_DATA_AT)
        if self.way == "host":
            return (self.target / f"data-{seed}").read_bytes()
        with Guest(self) as mounted:
            return (mounted / f"data-{seed}").read_bytes()

    def assert_holds(self, seed: int = 0, *, of: str = "") -> None:
        """Compare what it holds with what was written to it, or to the volume it is a copy of."""
        assert self.read(seed) == pattern(of or self.name, seed), f"{self.name} lost bytes"


class Guest:
    """Mounts a direct volume's device elsewhere, as the kernel of its guest would."""

    def __init__(self, life: Life) -> None:
        self._device = life.device()
        self._fs_type = life.fs_type
        self._at = life.driver.scratch / f"guest-{life.name}"

    def __enter__(self) -> Path:
        self._at.mkdir()
        options = b"nouuid" if self._fs_type == "xfs" else b""
        if _libc.mount(bytes(self._device), bytes(self._at), self._fs_type.encode(), 0, options):
            error = ctypes.get_errno()
            self._at.rmdir()
            raise AssertionError(f"a guest cannot mount {self._device}: {os.strerror(error)}")
        return self._at

    def __exit__(self, *exception: object) -> None:
        assert _libc.umount2(bytes(self._at), 0) == 0, os.strerror(ctypes.get_errno())
        self._at.rmdir()


def pattern(name: str, seed: int) -> bytes:
    """Give the bytes that a volume's workload writes; no two volumes have the same."""
    return random.Random(f"{name} {seed}").randbytes(_DATA_BYTES)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_at(path: Path, data: bytes, offset: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)
