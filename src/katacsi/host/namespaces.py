# ruff: noqa: PTH115, PTH208 -- in a walk over all processes of a host a Path for each would cost more than the walk
"""Which other mount namespaces have a device's filesystem mounted: a mount there outlives ours, and holds it.

One process a namespace is asked for its table. Containers that were started before us, and whoever copied our
mounts by unshare(1), have such mounts; those that get ours by propagation lose them with ours.
Source: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from katacsi.host import _linux, mounttable, processes


@dataclass(frozen=True, slots=True)
class MountedElsewhere:
    """A mount in a namespace that is not ours, and a process that sees it."""

    pid: int
    comm: str
    mount_point: str

    def __str__(self) -> str:
        return f"mounted at {self.mount_point} in the mount namespace of {self.comm} (process {self.pid})"


def mounted_elsewhere(device: tuple[int, int], proc: Path | None = None) -> list[MountedElsewhere]:
    """List the mounts of a block device's filesystem (major, minor) in other namespaces, one a namespace.

    `proc` is the procfs to look in; None: where the node's processes are seen.

    Raises:
        HostError: a namespace cannot be looked into, so nobody can say (CAP_SYS_PTRACE is needed).
    """
    proc = proc or processes.seen_in()
    try:
        names = sorted((name for name in os.listdir(proc) if name.isdigit()), key=int)
        seen = {os.readlink(proc / "self" / "ns" / "mnt")}
    except OSError as error:
        raise _linux.failure(f"list the processes in {proc}", error) from error
    found = []
    for name in names:  # the oldest of a namespace first: it lasts longest, and sees most
        try:
            namespace = os.readlink(f"{proc}/{name}/ns/mnt")
            if namespace in seen:
                continue
            table = Path(f"{proc}/{name}/mountinfo").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended; if others are in its namespace, the next of them is asked
        except OSError as error:
            if error.errno == errno.EINVAL or (name == "1" and error.errno == errno.EACCES):
                # It is ending, and in no namespace any more; or it is init, as in `holders`, and those that
                # it started show its namespace.
                continue
            raise _linux.failure(f"look into the mounts of process {name} in {proc}", error) from error
        seen.add(namespace)
        if mounts := mounttable.of_device_in(table, device):
            found.append(MountedElsewhere(int(name), _comm(proc, name), str(mounts[0].target)))
    return found


def _comm(proc: Path, name: str) -> str:
    try:
        return Path(f"{proc}/{name}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return "?"
