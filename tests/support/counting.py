"""A workload that counts: each number goes to one file, durably, then to a second one, and so on.

What a copy of its volume holds tells of which moment it is: the second file is never ahead of the first,
never more than one behind, and no number is missing or torn. As a program it is the workload.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = ("first", "second")
#: A record is two blocks, so that a part of it can be on disk without the rest.
_TIMES = 512
#: Between two numbers, so that a fast disk does not fill the volume.
_PAUSE_S = 0.001
#: Somebody who waits this long, in the kernel, is waiting for a thaw.
_STILL_S = 0.1
_TIMEOUT_S = 20.0
#: How far it has come, and whether it is in the middle of a write, not of an fsync, which a freeze lets end.
_COUNT = struct.Struct("Q?")


class Workload:
    """One that runs; `done` numbers are in both files, as far as it was told."""

    def __init__(self, process: subprocess.Popen[bytes], count: mmap.mmap) -> None:
        self._process = process
        self._count = count

    @property
    def done(self) -> int:
        """The last number of which both writes were answered."""
        return int(_COUNT.unpack_from(self._count)[0])

    async def counts_to(self, number: int) -> None:
        """Wait until it has come so far."""
        end = time.monotonic() + _TIMEOUT_S
        while self.done < number:
            assert self._process.poll() is None, "the workload ended"
            assert time.monotonic() < end, f"the workload is held up at {self.done}"
            await asyncio.sleep(0.005)

    async def stands_still(self) -> int:
        """Wait until the kernel makes it wait for its next write; give the last number that was answered."""
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            before = self._waiting_at()
            await asyncio.sleep(_STILL_S)
            if before is not None and before == self._waiting_at():
                return before
        raise AssertionError(f"the workload writes on: it has come to {self.done}")

    def _waiting_at(self) -> int | None:
        done, writes = _COUNT.unpack_from(self._count)
        stat = Path(f"/proc/{self._process.pid}/stat").read_text("ascii", "replace")
        waits = stat.rpartition(")")[2].split()[0] == "D"
        return int(done) if writes and waits else None


@contextlib.contextmanager
def workload(folder: Path, scratch: Path) -> Iterator[Workload]:
    """Have one write to a folder until the block ends."""
    with (scratch / "count").open("w+b") as file:
        file.write(bytes(_COUNT.size))
        file.flush()
        count = mmap.mmap(file.fileno(), _COUNT.size)
    process = subprocess.Popen([sys.executable, "-I", __file__, folder, file.name])
    try:
        yield Workload(process, count)
    finally:
        process.kill()
        process.wait(_TIMEOUT_S)  # what waits for a thaw that never comes cannot be killed


def held(folder: Path) -> tuple[int, int]:
    """Say to which number each file has come; no number is missing, and none is torn."""
    first, second = (_last(folder / name) for name in FILES)
    return first, second


def _last(file: Path) -> int:
    data = file.read_bytes()
    numbers = range(1, len(data) // len(_record(0)) + 1)
    assert data == b"".join(map(_record, numbers)), f"{file} has torn records, or others than it should"
    return numbers[-1]


def _record(number: int) -> bytes:
    return b"%015d\n" % number * _TIMES


def main(folder: Path, count_file: Path) -> None:
    """Count until the end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [os.open(folder / name, flags, 0o600) for name in FILES]
    with count_file.open("r+b") as file:
        count = mmap.mmap(file.fileno(), _COUNT.size)
    number = 0
    while True:
        number += 1
        for opened in files:
            _COUNT.pack_into(count, 0, number - 1, True)
            os.write(opened, _record(number))
            _COUNT.pack_into(count, 0, number - 1, False)
            os.fsync(opened)
        _COUNT.pack_into(count, 0, number, False)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
