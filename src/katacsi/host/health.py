"""Whether a mounted filesystem still takes writes, and whether its kernel driver has counted errors.

What the kernel shows changed: until 6.11 an ext4 that met an error became "ro"; since 6.12 it stops writing
and shows nothing, since 6.15 it shows "emergency_ro". xfs and a forced shutdown show nothing in the table.
Source: fs/ext4/super.c (ext4_handle_error, _ext4_show_options), fs/ext4/sysfs.c, fs/xfs/xfs_file.c.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from katacsi.host.mounttable import Mount

#: Options of a superblock that say that it takes no writes; "ro" only where nobody asked for it.
_STOPPED: Final = ("emergency_ro", "shutdown", "ro")
#: What asking a filesystem that has stopped answers.
_STOPPED_ERRNOS: Final = (errno.EROFS, errno.EIO, errno.EUCLEAN)

_SYSFS: Final = Path("/sys/fs/ext4")


def why_not_writable(mount: Mount) -> str:
    """Say why a filesystem that was mounted for writing takes no writes; empty: it does.

    The filesystem is not asked to write unless its driver has counted errors.
    """
    shown = next((option for option in _STOPPED if option in mount.super_options), "")
    if shown:
        return f"the kernel made the {mount.fs_type} filesystem read-only after an error ({shown})"
    try:
        os.close(os.open(mount.target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        os.statvfs(mount.target)
        if errors_counted(mount):
            _try_to_write(mount.target)
    except OSError as error:
        if error.errno in _STOPPED_ERRNOS:
            return f"the {mount.fs_type} filesystem was shut down after an error: {error.strerror}"
    return ""


def errors_counted(mount: Mount) -> int:
    """Give how many errors the driver has recorded in an ext4 since its last check; others do not tell."""
    if mount.fs_type != "ext4":
        return 0
    try:
        device = Path(f"/sys/dev/block/{mount.device[0]}:{mount.device[1]}").resolve().name
        return int((_SYSFS / device / "errors_count").read_text())
    except (OSError, ValueError):
        return 0  # a kernel without the file; what the table shows then has to do


def _try_to_write(directory: Path) -> None:
    """Make a file without a name, gone at once: kernels 6.12 to 6.14 show an aborted ext4 nowhere."""
    os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
