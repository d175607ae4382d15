"""Checks and repairs filesystems that nobody has mounted; what would be a guess is left to a person.

xfs and btrfs are left alone: the kernel replays their log at mount, and their checkers are not meant to run
before one.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Final

from katacsi.errors import Damaged, HostError, NotProvenSound
from katacsi.host import command, superblock
from katacsi.host.command import CommandError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from katacsi.host.command import Completed

EXT: Final = ("ext4", "ext3", "ext2")

# e2fsck(8), "EXIT CODE": a sum of these.
_CORRECTED: Final = 1
_UNCORRECTED: Final = 4
_NOT_DONE: Final = 8

#: Whoever looks for a free loop device claims each for a moment, also ours; seconds between tries.
_BUSY_PAUSES_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16)
_BUSY: Final = re.compile(r"is in use|Device or resource busy")

#: More rounds than this never helped: the second one of a hundred kills found nothing (measured).
_ROUNDS: Final = 3

#: What e2fsck asks after a growth that was killed at any moment: counts, bitmaps, the inode that holds the
#: room for more group descriptors (7, no file of anybody's). A question about any other inode or name is not
#: of a growth's making.
_OF_A_GROWTH: Final = re.compile(
    r"Fix\? no"
    r"|Padding at end of (block|inode) bitmap is not set\. Fix\? no"
    r"|Resize inode not valid\.\s+Recreate\? no"
    r"|Inode 7\b.*\? no"
    r"|(Clear inode|Suppress messages)\? no",
)
_INODE: Final = re.compile(r"\binode #?(\d+)", re.IGNORECASE)


def check_offline(device: Path, fs_type: str, *, timeout_s: float = 3600.0) -> None:
    """Replay and repair, as far as that needs no person, a filesystem that is not mounted.

    Raises:
        Damaged: it has faults that a person must look at; nothing was changed by guess.
        CommandError: it could not be checked.
    """
    if fs_type in EXT and not _is_sound(_e2fsck(device, "-p", timeout_s)):
        raise _damaged(device, "")


def repair_offline(device: Path, *, timeout_s: float = 3600.0) -> None:
    """Mend an ext4 whose growth was cut off: its tables are of two sizes, its files are as they were.

    Only for a caller whose facts say that a growth of his began, and who kept everybody from mounting it
    since: then e2fsck may be told to mend everything, which it does by itself (`-p`) in part only. Measured
    on filesystems of 8 MiB to 512 MiB, grown to as much as 100 GiB, with resize2fs killed before one of its
    writes, 600 times: no file was lost.

    Raises:
        Damaged: it has other faults as well; nothing was changed by guess.
        NotProvenSound: it could not be mended; nobody may mount it before that.
    """
    try:
        if _e2fsck(device, "-p", timeout_s).returncode in (0, _CORRECTED):
            return
        found = _e2fsck(device, "-n", timeout_s)
        if found.returncode & _NOT_DONE and _sealed(device):
            found = _e2fsck(device, "-n", timeout_s)
        _is_sound(found)
        if strange := _strange_fault(found.stdout.decode(errors="replace")):
            raise _damaged(device, strange)
        for _ in range(_ROUNDS):
            if _e2fsck(device, "-y", timeout_s).returncode == 0:
                return
    except Damaged:
        raise
    except HostError as error:
        raise not_proven_sound(device, error) from error
    raise not_proven_sound(device, None)


def not_proven_sound(device: Path, error: HostError | None) -> NotProvenSound:
    """Give the error of a growth whose end is not known to be good."""
    cause = f" ({error.message})" if error else ""
    return NotProvenSound(
        f"{device}: a growth of its ext4 did not come to its end, and it is not proven sound{cause}; nobody "
        "may mount it. The next call mends it; if that fails again and again, copy the device and run "
        "e2fsck -f on it"
    )


def _damaged(device: Path, fault: str) -> Damaged:
    what = f": {fault}" if fault else ""
    return Damaged(
        f"{device}: its ext4 has faults that a person must look at{what}; nothing was guessed. Copy the "
        "device, run e2fsck -f on it, and then retry"
    )


def _is_sound(said: Completed) -> bool:
    """Whether the check ended with nothing left to do.

    Raises:
        CommandError: it did not come to its end.
    """
    if said.returncode & _NOT_DONE:
        raise CommandError("e2fsck", said.returncode, f"exit code {said.returncode}", _words(said))
    return not said.returncode & _UNCORRECTED


def _e2fsck(device: Path, answer: str, timeout_s: float) -> Completed:
    return patiently(["e2fsck", "-f", answer, device], timeout_s=timeout_s, ok=range(16))


def patiently(argv: Sequence[str | Path], *, timeout_s: float, ok: Collection[int] = (0,)) -> Completed:
    """Run a tool that claims its device, and again if another claimed it just then.

    Raises:
        CommandError: as `command.run`.
    """
    for pause_s in _BUSY_PAUSES_S:
        try:
            said = command.run(argv, timeout_s=timeout_s, ok=ok)
        except CommandError as error:
            if not _BUSY.search(error.stderr):
                raise
        else:
            if not (said.returncode & _NOT_DONE and _BUSY.search(_words(said))):
                return said
        time.sleep(pause_s)
    return command.run(argv, timeout_s=timeout_s, ok=ok)


def _words(said: Completed) -> str:
    return said.stderr + said.stdout[:4096].decode(errors="replace")


def _sealed(device: Path) -> bool:
    """Give an ext superblock that was cut off in its writing the checksum of what it has; false: it fits.

    It is written word by word. Where there is no copy of it, in a filesystem of one group, e2fsck would give
    up; with a checksum it corrects the words.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        try:
            block = os.pread(descriptor, 1024, superblock.EXT_OFFSET)
            fitting = superblock.with_checksum(block)
            if fitting == block:
                return False
            os.pwrite(descriptor, fitting, superblock.EXT_OFFSET)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{device}: its superblock cannot be mended: {error.strerror}") from error
    return True


def _strange_fault(said: str) -> str:
    """Give the first question in e2fsck's report (-n) that no growth of ours explains; empty: none."""
    about = ""
    for line in said.splitlines():
        inode = _INODE.search(line)
        about = inode[1] if inode else about
        if "? no" in line and not (
            _OF_A_GROWTH.fullmatch(line.strip()) and (about == "7" or not line.startswith("Clear inode"))
        ):
            return line.strip()
    return ""
