"""Asks libblkid what a device holds. An answer that could not be had is an error, never "nothing"."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.errors import HostError
from katacsi.host import command

if TYPE_CHECKING:
    from pathlib import Path

#: Signatures lie within this many bytes of either end (ZFS and RAID members reach furthest in).
_ENDS: Final = 1 << 20
_NOTHING: Final = 2
_AMBIVALENT: Final = 8


@dataclass(frozen=True, slots=True)
class Signature:
    """What was found on a device; fields that blkid did not give are empty.

    Attributes:
        type: the filesystem, RAID or LVM member, swap, …
        usage: `filesystem`, `raid`, `crypto` or `other`.
        uuid: the filesystem's, as blkid writes it.
        pttype: the kind of partition table.
    """

    type: str = ""
    usage: str = ""
    uuid: str = ""
    pttype: str = ""

    def describe(self) -> str:
        """Say in a few words what was found."""
        what = self.type or (f"a {self.pttype} partition table" if self.pttype else f"{self.usage} data")
        return f"{what} {self.uuid}".rstrip()


def signature(device: Path, *, timeout_s: float = 30.0) -> Signature | None:
    """Look for any superblock, RAID or LVM label or partition table; None is the proof of nothing.

    blkid says "nothing" (exit code 2) also when it cannot open or read the device, so the device is opened
    and both ends are read here first, and held open meanwhile.

    Raises:
        HostError: the device cannot be opened or read, or blkid finds signatures that contradict each other.

    Source: blkid(8), "RETURN CODE"; https://github.com/kubernetes/kubernetes/issues/142243.
    """
    descriptor = _open_readable(device)
    try:
        # No -u: a swap area or an LVM member is content as much as a filesystem is.
        found = command.run(
            ["blkid", "-p", "-o", "export", device], timeout_s=timeout_s, ok=(0, _NOTHING, _AMBIVALENT)
        )
        _require_same(device, descriptor)
    finally:
        os.close(descriptor)
    if found.returncode == _AMBIVALENT:
        raise HostError(f"{device}: signatures of several kinds contradict each other; look with wipefs(8)")
    return None if found.returncode == _NOTHING else _parse(found.stdout)


def _parse(answer: bytes) -> Signature:
    pairs = (line.partition("=") for line in answer.decode(errors="replace").splitlines())
    values = {key: value for key, _, value in pairs}
    return Signature(
        type=values.get("TYPE", ""),
        usage=values.get("USAGE", ""),
        uuid=values.get("UUID", ""),
        pttype=values.get("PTTYPE", ""),
    )


def _open_readable(device: Path) -> int:
    """Open the device and prove that both ends can be read; the pages then answer blkid's reads, too."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{device}: cannot be opened: {error.strerror}") from error
    try:
        _require_readable(device, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_readable(device: Path, descriptor: int) -> None:
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        wanted = min(_ENDS, size)
        read = [len(os.pread(descriptor, wanted, offset)) for offset in (0, size - wanted)]
    except OSError as error:
        raise HostError(f"{device}: cannot be read: {error.strerror}") from error
    if size == 0 or read != [wanted, wanted]:
        raise HostError(f"{device}: gives less than its size of {size} bytes; is it attached?")


def _require_same(device: Path, descriptor: int) -> None:
    """Refuse an answer about another device than the one that was proven readable."""
    try:
        now, then = os.stat(device), os.fstat(descriptor)  # noqa: PTH116  # beside its fstat
    except OSError as error:
        raise HostError(f"{device}: went away while it was probed: {error.strerror}") from error
    if (now.st_dev, now.st_ino, now.st_rdev) != (then.st_dev, then.st_ino, then.st_rdev):
        raise HostError(f"{device}: was replaced while it was probed")
