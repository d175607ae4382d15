# ruff: noqa: PTH115, PTH208 -- in a walk over all processes of a host a Path for each would cost more than the walk
"""Which other mount namespaces have a device's filesystem mounted: a mount there outlives ours, and holds it.

One process a namespace is asked for its table. Containers that were started before us, and whoever copied our
mounts by unshare(1), have such mounts; those that get ours by propagation lose them with ours.
Source: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.host import _linux

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class MountedElsewhere:
    """A mount in a namespace that is not ours, and a process that sees it."""

    pid: int
    comm: str
    mount_point: str

    def __str__(self) -> str:
        return f"mounted at {self.mount_point} in the mount namespace of {self.comm} (process {self.pid})"


def mounted_elsewhere(device: tuple[int, int], proc: Path = Path("/proc")) -> list[MountedElsewhere]:
    """List the mounts of a block device's filesystem (major, minor) in other namespaces, one a namespace.

    Raises:
        HostError: the processes cannot be listed.
    """
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]
        own = os.readlink(proc / "self" / "ns" / "mnt")
    except OSError as error:
        raise _linux.failure(f"list the processes in {proc}", error) from error
    mark = b" %d:%d " % device
    found = []
    for name in _one_a_namespace(proc, names, own):
        try:
            table = Path(f"{proc}/{name}/mountinfo").read_bytes()
        except OSError:
            continue  # it ended just now; whoever is left in its namespace holds the device as before
        if (start := table.find(mark)) >= 0:
            line = table[table.rfind(b"\n", 0, start) + 1 :].split(b"\n", 1)[0]
            found.append(MountedElsewhere(int(name), _comm(proc, name), os.fsdecode(line.split()[4])))
    return found


def _one_a_namespace(proc: Path, names: list[str], own: str) -> Iterator[str]:
    """Give a process for each namespace but our own; one that cannot be asked leaves its namespace open."""
    seen = {own}
    for name in names:
        try:
            namespace = os.readlink(f"{proc}/{name}/ns/mnt")
        except OSError:
            continue  # a kernel thread, a process that ended, or one of another user namespace
        if namespace not in seen and os.path.exists(f"{proc}/{name}/mountinfo"):  # noqa: PTH110 -- as above
            seen.add(namespace)
            yield name


def _comm(proc: Path, name: str) -> str:
    try:
        return Path(f"{proc}/{name}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return "?"
