"""The guard: a read-only tmpfs on the target of a volume that a guest mounts.

Every way in which Kata might miss the record (a setting, a subPath, a torn file) ends with the host's folder
in the container. With the guard there, that is EROFS at the first write instead of data on the node's disk.
The kubelet takes it for the volume's mount; to us its source proves whose target this is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.errors import HostError, VolumeInUse
from katacsi.host import mount, mounttable, targets

if TYPE_CHECKING:
    from katacsi.host.mounttable import Mount

_SOURCE = "katacsi:"
_OPTIONS = "size=4k,mode=0555"

# A tmpfs that shows `seclabel` makes the kubelet ask the runtime for a relabel, which a read-only filesystem
# refuses; one with an explicit context shows that instead. Every policy knows tmpfs_t, and no container may
# read it: one that gets the guard by mistake is stopped even earlier.
_SELINUX_CONTEXT = "context=system_u:object_r:tmpfs_t:s0"
_SELINUX_ENFORCE = Path("/sys/fs/selinux/enforce")
_FILESYSTEMS = Path("/proc/filesystems")


def source_of(volume_id: str) -> str:
    """Give what the mount table shows as the source of a volume's guard."""
    return _SOURCE + volume_id


def ensure_guard(target: str, volume_id: str) -> None:
    """Have the guard of a volume on a target, which is made when missing; there already is success.

    Raises:
        VolumeInUse: something else is mounted there; it is named and left alone.
        InvalidRequest: the target is a symlink or no folder.
    """
    path = Path(target)
    mounts = mounttable.at(path)
    for found in mounts:
        if _volume(found) != volume_id:
            raise VolumeInUse(f"{target}: {_described(found)} is mounted here; unmount it and retry")
    if not mounts:
        targets.ensure_target_directory(path)
        options = f"{_OPTIONS},{_SELINUX_CONTEXT}" if _selinux() else _OPTIONS
        mount.mount_tmpfs(path, source_of(volume_id), options, read_only=True)
    elif not _read_only(mounts[-1]):
        raise HostError(f"{target}: the guard of volume {volume_id} was made writable; unmount it and retry")


def guard_of(target: str) -> str | None:
    """Name the volume whose guard is what one sees at a target; `None` when that is no guard."""
    mounts = mounttable.at(Path(target))
    return _volume(mounts[-1]) if mounts else None


def remove_guard(target: str) -> None:
    """Have no guard on a target; none there, or no target, is success. The folder stays.

    Raises:
        VolumeInUse: something else is mounted there, which is left alone, or the guard is in use.
    """
    path = Path(target)
    mounts = mounttable.at(path)
    for found in mounts:
        if _volume(found) is None:
            raise VolumeInUse(f"{target}: {_described(found)} is mounted here and is no guard; unmount it")
    if mounts:
        mount.unmount(path)


def _volume(found: Mount) -> str | None:
    """Name the volume that a mount guards."""
    guards = found.fs_type == "tmpfs" and found.source.startswith(_SOURCE)
    return found.source.removeprefix(_SOURCE) if guards else None


def _read_only(found: Mount) -> bool:
    return "ro" in found.options or "ro" in found.super_options


def _described(found: Mount) -> str:
    guarded = _volume(found)
    return f"the guard of volume {guarded}" if guarded else f"{found.fs_type} from {found.source}"


def _selinux() -> bool:
    """Whether SELinux labels files here; a container may see it in its mounts only."""
    # The table may be long, and a new mount may be the first that shows a label: it is read each time, but
    # only where there is something to be found.
    return _selinux_in_kernel() and (
        _SELINUX_ENFORCE.exists()
        or any(
            found.fs_type == "selinuxfs" or "seclabel" in (*found.options, *found.super_options)
            for found in mounttable.table()
        )
    )


@functools.cache
def _selinux_in_kernel() -> bool:
    """Whether this boot's kernel runs SELinux at all: it offers selinuxfs only then, to containers as well.

    Source: init_sel_fs() in security/selinux/selinuxfs.c; libselinux asks the same way.
    """
    try:
        return "selinuxfs" in _FILESYSTEMS.read_text().split()
    except OSError:
        return True
