"""The node's files and folders, which may lie below a folder: a pod has the node's root at /host.

Links are followed as the node would follow them: an absolute one starts at that folder, not at ours.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from katacsi.errors import KatacsiError
from katacsi.findings import Mounted, Place, Unread
from katacsi.host import mounttable

#: As the kernel's own limit, path_resolution(7).
_MOST_LINKS: Final = 40
#: A configuration is some 40 KB; what is larger is none.
_MAX_BYTES: Final = 4 << 20

#: A file of /proc/sys refuses a read of megabytes (ENOMEM), however short it is.
_READ_BYTES: Final = 64 << 10

_ABSENT: Final = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The node's files.

    Attributes:
        root: where the node's root folder is seen.
    """

    root: Path = Path("/")

    def here(self, path: PurePosixPath | str) -> Path:
        """Say where a path of the node is seen; links are not followed."""
        return self.root / str(path).lstrip("/")

    def resolved(self, path: PurePosixPath | str) -> PurePosixPath:
        """Follow all links, as the node does; what is absent stays as it is.

        Raises:
            OSError: a folder may not be looked into, or the links make a circle.
        """
        waiting = list(PurePosixPath("/", path).parts[1:])[::-1]
        found, links = PurePosixPath("/"), 0
        while waiting:
            part = waiting.pop()
            if part == "..":
                found = found.parent
                continue
            try:
                target = os.readlink(self.here(found / part))  # noqa: PTH115 -- its text, not a path of ours
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                    raise
                found /= part
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if target.startswith("/"):
                found = PurePosixPath("/")
            waiting += [part for part in PurePosixPath(target).parts if part != "/"][::-1]
        return found

    def followed(self, path: str) -> str:
        """Follow all links, where that can be done; else the path stays as it is."""
        try:
            return str(self.resolved(path))
        except OSError:
            return path

    def text(self, path: PurePosixPath | str) -> str | Unread | None:
        """Read a text file; `None`: it is proven absent."""
        data = self.data(path)
        try:
            return data.decode() if isinstance(data, bytes) else data
        except UnicodeDecodeError:
            return Unread(f"{path}: is not UTF-8")

    def data(self, path: PurePosixPath | str) -> bytes | Unread | None:
        """Read a file; `None`: it is proven absent."""
        try:
            file = self.here(self.resolved(path))
            # A pipe or a device would keep us waiting.
            if not stat.S_ISREG(file.stat().st_mode):
                return Unread(f"{path}: is no plain file")
            data = _contents(file)
        except _ABSENT:
            return None
        except OSError as error:
            return Unread(f"{path}: {error.strerror}")
        return data if len(data) <= _MAX_BYTES else Unread(f"{path}: is too large")

    def names(self, folder: PurePosixPath | str) -> list[str] | Unread:
        """List a folder, sorted; one that is absent is empty."""
        try:
            return sorted(entry.name for entry in self.here(self.resolved(folder)).iterdir())
        except _ABSENT:
            return []
        except OSError as error:
            return Unread(f"{folder}: {error.strerror}")

    def is_there(self, path: PurePosixPath | str) -> bool:
        """Whether there certainly is something."""
        return isinstance(self.status(path), os.stat_result)

    def is_folder(self, path: PurePosixPath | str) -> bool:
        """Whether there certainly is a folder."""
        status = self.status(path)
        return isinstance(status, os.stat_result) and stat.S_ISDIR(status.st_mode)

    def is_link(self, path: PurePosixPath | str) -> bool:
        """Whether the path's last part certainly is a symlink."""
        path = PurePosixPath(path)
        try:
            return (self.here(self.resolved(path.parent)) / path.name).is_symlink()
        except OSError:
            return False

    def status(self, path: PurePosixPath | str) -> os.stat_result | Unread | None:
        """Say what the kernel knows of a file; `None`: it is proven absent."""
        try:
            return self.here(self.resolved(path)).stat()
        except _ABSENT:
            return None
        except OSError as error:
            return Unread(f"{path}: {error.strerror}")


#: What this process sees itself, whatever the node's files are.
OWN: Final = HostFiles()


def _contents(file: Path) -> bytes:
    """Read a file up to its end, or a little more than is wanted of any."""
    with file.open("rb", buffering=0) as opened:
        data = b""
        while len(data) <= _MAX_BYTES and (piece := opened.read(_READ_BYTES)):
            data += piece
    return data


# -- folders --------------------------------------------------------------------------------------------


def place(path: Path | str, files: HostFiles, *, contained: bool) -> Place | Unread:
    """Look at a folder as this process has it, and whether it is the node's."""
    path = str(path)
    found = OWN.status(path)
    if isinstance(found, Unread):
        return found
    if found is None:
        return Place(path, exists=False, mounted=_mounted(path))
    hosts = None
    if contained:
        theirs = files.status(path)
        if isinstance(theirs, Unread):
            return theirs
        hosts = theirs is not None and (theirs.st_dev, theirs.st_ino) == (found.st_dev, found.st_ino)
    return Place(
        path,
        folder=stat.S_ISDIR(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        mounted=_mounted(path),
        hosts=hosts,
    )


def _mounted(path: str) -> Mounted | None:
    """Say on which filesystem a path lies, or would lie."""
    try:
        table = mounttable.table()
        real = Path(path).resolve()
    except (KatacsiError, OSError):
        return None
    # Of a stack the last one counts.
    over = [entry for entry in table if real.is_relative_to(entry.target)]
    if not over:
        return None
    deepest = max(enumerate(over), key=lambda item: (len(item[1].target.parts), item[0]))[1]
    return Mounted(
        str(deepest.target),
        deepest.fs_type,
        read_only=deepest.read_only,
        shared=any(word.startswith("shared:") for word in deepest.propagation),
    )
