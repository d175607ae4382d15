"""The unix socket that the kubelet and the sidecars call: ours alone, and open to root alone."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from katacsi.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

#: The kernel's limit (sun_path: 108 bytes with the NUL at its end; unix(7)).
MAX_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A bound socket, and which file at its path it is."""

    socket: socket.socket
    path: Path
    file: tuple[int, int]

    def remove(self) -> None:
        """Remove the file, unless it is another's by now: a successor may have replaced it."""
        with suppress(OSError):
            if _identity(self.path) == self.file:
                self.path.unlink()


def bind(path: Path) -> Endpoint:
    """Give a bound socket of mode 0600; one that a dead process left is replaced.

    Raises:
        SettingsError: the path is too long, its folder is missing, something else lies there, or another
            process answers on it.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise SettingsError(f"socket {path}: longer than {MAX_PATH_BYTES} bytes; choose a shorter path")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # By umask, not chmod: between bind and chmod anybody could connect. It is the process's own, so a thread
    # that makes a file at this moment makes it too private, never too open.
    umask = os.umask(0o177)
    try:
        _make_room(path)
        made.bind(os.fspath(path))
        file = _identity(path)
    except OSError as error:
        made.close()
        raise SettingsError(
            f"socket {path}: cannot be made ({error.strerror}); its folder has to exist and be writable"
        ) from error
    except SettingsError:
        made.close()
        raise
    finally:
        os.umask(umask)
    made.setblocking(False)
    return Endpoint(made, path, file)


def _make_room(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"socket {path}: something else lies there; remove it or choose another path")
    if _answers(path):
        raise SettingsError(
            f"socket {path}: another process answers on it; stop that driver or choose another path"
        )
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Refused: nobody listens. Anything else, such as a full backlog, is somebody.
        return probe.connect_ex(os.fspath(path)) not in {errno.ECONNREFUSED, errno.ENOENT}


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
