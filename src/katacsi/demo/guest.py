"""Stands for a Kata guest: a process that finds the device as Kata does, and mounts it where only it can see.

It runs as `python -m katacsi.demo.guest`, in a mount namespace of its own, so the host's mounts never show
the filesystem, and when the process ends, however it ends, the kernel unmounts.

    RECORDS TARGET MOUNT_POINT write    stdin becomes a file on the volume
    RECORDS TARGET MOUNT_POINT read     says what is in it
    RECORDS TARGET MOUNT_POINT hold     keeps the device open and mounted until stdin ends

The answer is one line of JSON on stdout.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from katacsi.directvolume.names import RECORD_FILE, target_entry_name
from katacsi.directvolume.record import DirectVolumeRecord
from katacsi.errors import KatacsiError
from katacsi.host import mount

_FILE = "data"
_CLONE_NEWNS = 0x00020000  # <linux/sched.h>
_MS_REC_PRIVATE = 0x4000 | 1 << 18  # <linux/mount.h>
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(arguments: list[str]) -> int:
    """Do one thing as a guest."""
    records, target, mount_point, action = arguments
    try:
        _leave_host()
        file = Path(records) / target_entry_name(target) / RECORD_FILE
        record = DirectVolumeRecord.from_json(file.read_bytes(), file)
        _act(record, Path(mount_point), action)
    except (KatacsiError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _leave_host() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a guest does not outlive the demo
    private = libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, _MS_REC_PRIVATE, None) == 0
    if not private:
        number = ctypes.get_errno()
        raise OSError(number, f"no mount namespace of its own can be had: {os.strerror(number)}")


def _act(record: DirectVolumeRecord, mount_point: Path, action: str) -> None:
    mount_point.mkdir(exist_ok=True)
    device = os.open(record.device, os.O_RDWR | os.O_CLOEXEC)  # as a VMM has it
    try:
        mount.mount_filesystem(Path(record.device), mount_point, record.fs_type, record.options)
        try:
            if action == "write":
                _write(mount_point / _FILE, sys.stdin.buffer.read())
            _answer(mount_point)
            if action == "hold":
                sys.stdin.buffer.read()
        finally:
            mount.unmount(mount_point)
    finally:
        os.close(device)


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _answer(mount_point: Path) -> None:
    data = (mount_point / _FILE).read_bytes()
    answer = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "filesystem_bytes": mount.usage(mount_point).total_bytes,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
