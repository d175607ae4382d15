"""Gives a volume's files to a group, by the rules of the kubelet."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final, Literal

import structlog

from katacsi.errors import HostError

log = structlog.get_logger(__name__)

#: A pod's `fsGroupChangePolicy`; "None" leaves everything as it is.
Policy = Literal["OnRootMismatch", "Always", "None"]

# kubernetes, pkg/volume/volume_linux.go: rwMask, execMask
_READ_WRITE: Final = 0o660
_SEARCH: Final = 0o110

#: What says something of one file, and nothing of the others.
_ONE_FILE_ONLY: Final = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)


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

    A file that resists (immutable) or is removed meanwhile is passed over, as the kubelet does; how many, and
    one of them, is logged.

    Raises:
        HostError: the root could not be changed, or what is wrong concerns more than one file (read-only).

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
            left = _walk(descriptor, gid)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(f"{root}: cannot be given to group {gid}: {error.strerror}") from error
    if left.count:
        log.warning(
            "files keep their group", root=str(root), group=gid, files=left.count, example=left.example
        )
    return True


def _root_matches(facts: os.stat_result, gid: int) -> bool:
    wanted = _READ_WRITE | _SEARCH | stat.S_ISGID
    return facts.st_gid == gid and facts.st_mode & wanted == wanted


class _Left:
    """The files that could not be changed: how many, and one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.example = ""

    def note(self, name: str, error: OSError) -> None:
        """Take note of a file that stays as it is; raise what concerns more than this file."""
        if error.errno == errno.ENOENT:  # removed meanwhile
            return
        if error.errno not in _ONE_FILE_ONLY:
            raise error
        self.count += 1
        self.example = self.example or f"{name}: {error.strerror}"


def _walk(root: int, gid: int) -> _Left:
    """Change a tree, each directory after what it holds.

    Directories are entered by descriptor, never by path, so a name that is replaced by a link meanwhile
    leads nowhere; and without recursion, since trees may be deeper than Python's stack.
    """
    ours, left = _mount_id(root), _Left()
    open_directories = [_Directory(os.dup(root), ".")]
    try:
        while open_directories:
            directory = open_directories[-1]
            if (name := next(directory.names, None)) is None:
                _change_or_note(
                    directory.descriptor, directory.name, gid, left, last=len(open_directories) == 1
                )
                open_directories.pop().close()
                continue
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory.descriptor)
            except OSError as error:
                left.note(name, error)
                continue
            try:
                if not stat.S_ISDIR(os.fstat(entry).st_mode):
                    _change_or_note(entry, name, gid, left)
                elif _mount_id(entry) == ours:
                    inner = os.open(f"/proc/self/fd/{entry}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    open_directories.append(_Directory(inner, name))
            finally:
                os.close(entry)
    finally:
        for directory in open_directories:
            directory.close()
    return left


class _Directory:
    """A directory that is being walked, and the names in it; both are closed together."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        # scandir keeps a descriptor of its own, which an error on the way must not leave open.
        self._entries = os.scandir(descriptor)
        self.names = (entry.name for entry in self._entries)

    def close(self) -> None:
        self._entries.close()
        os.close(self.descriptor)


def _mount_id(descriptor: int) -> str:
    """Tell which mount a descriptor is on; a device number would not do, as btrfs has one a subvolume."""
    facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return facts.partition("mnt_id:")[2].split(maxsplit=1)[0]


def _change_or_note(descriptor: int, name: str, gid: int, left: _Left, *, last: bool = False) -> None:
    """Change one file; note it where it resists. The root, which is the last, has to be changed."""
    try:
        _change(descriptor, gid)
    except OSError as error:
        if last:
            raise
        left.note(name, error)


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
