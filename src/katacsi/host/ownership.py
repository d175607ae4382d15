"""Gives a volume's files to a group, by the rules of the kubelet."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from katacsi.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A pod's `fsGroupChangePolicy`; "None" leaves everything as it is.
Policy = Literal["OnRootMismatch", "Always", "None"]

# kubernetes, pkg/volume/volume_linux.go: rwMask, execMask
_READ_WRITE: Final = 0o660
_SEARCH: Final = 0o110


def apply_group(root: Path, gid: int, policy: Policy) -> bool:
    """Let the members of a group read and write everything below a directory, and inherit the group.

    Files get the group and `ug+rw`, directories also `ug+x` and the set-group-id bit; other bits stay. The
    root itself comes last, so that an interrupted run shows as a mismatch there and is repeated. Symbolic
    links change their own group only, and other filesystems mounted below are not entered.

    Args:
        root: the mounted volume.
        gid: the group.
        policy: with "OnRootMismatch" nothing is done if the root already looks right.

    Returns:
        whether the tree was walked.

    Raises:
        HostError: a file could not be changed.

    Source: https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/volume/volume_linux.go
    """
    if policy == "None":
        return False
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if policy == "OnRootMismatch" and _root_matches(facts, gid):
                return False
            _walk(descriptor, gid)
        finally:
            os.close(descriptor)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise HostError(f"{root}: cannot be given to group {gid}: {what}") from error
    return True


def _root_matches(facts: os.stat_result, gid: int) -> bool:
    wanted = _READ_WRITE | _SEARCH | stat.S_ISGID
    return facts.st_gid == gid and facts.st_mode & wanted == wanted


def _walk(root: int, gid: int) -> None:
    """Change a tree, each directory after what it holds.

    Directories are entered by descriptor, never by path, so a name that is replaced by a link meanwhile
    leads nowhere; and without recursion, since trees may be deeper than Python's stack.
    """
    ours = _mount_id(root)
    open_directories = [(os.dup(root), _entries(root))]
    try:
        while open_directories:
            directory, names = open_directories[-1]
            name = next(names, None)
            if name is None:
                _change(directory, gid)
                os.close(open_directories.pop()[0])
                continue
            entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                if not stat.S_ISDIR(os.fstat(entry).st_mode):
                    _change(entry, gid)
                elif _mount_id(entry) == ours:
                    inner = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    open_directories.append((inner, _entries(inner)))
            finally:
                os.close(entry)
    finally:
        for directory, _ in open_directories:
            os.close(directory)


def _mount_id(descriptor: int) -> str:
    """Tell which mount a descriptor is on; a device number would not do, as btrfs has one a subvolume."""
    facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return facts.partition("mnt_id:")[2].split(maxsplit=1)[0]


def _entries(directory: int) -> Iterator[str]:
    with os.scandir(directory) as entries:
        yield from (entry.name for entry in entries)


def _change(descriptor: int, gid: int) -> None:
    """Change one file, which may be of any kind, so its descriptor may be for reference only (O_PATH)."""
    facts = os.fstat(descriptor)
    # Such a descriptor is changed by its name in /proc, which leads to the very file, link or not.
    itself = f"/proc/self/fd/{descriptor}"
    if facts.st_gid != gid:
        os.chown(itself, -1, gid)
    if stat.S_ISLNK(facts.st_mode):
        return
    mode = stat.S_IMODE(facts.st_mode) | _READ_WRITE
    if stat.S_ISDIR(facts.st_mode):
        mode |= _SEARCH | stat.S_ISGID
    # chown clears the set-id bits of a program; like the kubelet we set back what was there.
    if facts.st_gid != gid or mode != stat.S_IMODE(facts.st_mode):
        Path(itself).chmod(mode)
