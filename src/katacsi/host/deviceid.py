"""What a disk is called by its maker, whatever name the kernel gives it after the next boot.

Source: sysfs (kernel, Documentation/ABI): `wwid` of NVMe and SCSI, `serial` of virtio, `dm/uuid` of
device-mapper. A loop device is what its file is: the filesystem's device number and the inode.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from katacsi import errors
from katacsi.host import _linux, block, loopdevices

#: Where sysfs has it, by kind of device, and how the answer is told from those of other kinds.
_PLACES: Final = (
    ("dm/uuid", "dm"),
    ("wwid", "wwid"),
    ("device/wwid", "wwid"),
    ("serial", "serial"),
    ("device/serial", "serial"),
)
_LOOP_MAJOR: Final = 7


def identity(device: Path) -> str:
    """Give what tells a whole disk, a partition or a loop device from all others, such as `wwid:naa.5000…`.

    Raises:
        HostError: it is no block device, or nothing tells it from another one.
    """
    number = block.device_number(device)
    if number[0] == _LOOP_MAJOR:
        return _of_loop(device, number[1])
    folder = Path(f"/sys/dev/block/{number[0]}:{number[1]}").resolve()
    partition = _text(folder / "partition")
    if partition:
        return f"{_of_disk(device, folder.parent)}:part{partition}"
    return _of_disk(device, folder)


def _of_disk(device: Path, folder: Path) -> str:
    for place, kind in _PLACES:
        if found := _text(folder / place):
            return f"{kind}:{found}"
    raise errors.HostError(
        f"{device}: has neither WWID nor serial number, so it cannot be told from the disk that has its name "
        "after the next boot; give the virtual disk a serial number, or use another one"
    )


def _of_loop(device: Path, number: int) -> str:
    found = loopdevices.described(number)
    if found is None:
        raise errors.HostError(f"{device}: has no file; attach one (losetup)")
    return f"file:{found.backing[0]:x}:{found.backing[1]}"


def _text(file: Path) -> str:
    try:
        return " ".join(file.read_text("utf-8", "replace").split())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
            return ""
        raise _linux.failure(f"read {file}", error) from error
