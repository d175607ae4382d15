# ruff: noqa: PTH115, PTH208 -- in a walk over all descriptors of a host a Path for each would cost more than the walk
"""What keeps a mount from being unmounted: mounts below it, and processes that work in it.

The kernel only says EBUSY. Source: umount(2), proc_pid_cwd(5), proc_pid_fd(5), proc_pid_maps(5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.host import mounttable, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Links of a process into the tree of files, and what each says of it.
_LINKS: Final = {"cwd": "works in it", "root": "has its root in it", "exe": "was started from it"}
#: So many are named: who ends these meets the others at the next try.
_NAMED: Final = 5


def in_the_way(target: Path) -> str:
    """Name the mounts and the processes that keep the mount at a target busy; empty: none can be seen."""
    where = os.path.realpath(target)
    try:
        below = [f"{mount.source} is mounted at {mount.target}" for mount in mounttable.below(target)]
        users = [*_users(processes.seen_in(), where)] if len(below) < _NAMED else []
    except OSError:
        return ""
    return "; ".join((below + users)[:_NAMED])


def _users(proc: Path, where: str) -> Iterator[str]:
    for name in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        if use := _use(proc, name, where):
            yield f"{_comm(proc, name)} (process {name}) {use}"


def _use(proc: Path, name: str, where: str) -> str:
    """Say how a process uses what lies below a path; empty: not, or it ended meanwhile."""
    for link, use in _LINKS.items():
        if _is_below(_target(f"{proc}/{name}/{link}"), where):
            return use
    try:
        if any(
            _is_below(_target(f"{proc}/{name}/fd/{number}"), where)
            for number in os.listdir(f"{proc}/{name}/fd")
        ):
            return "has a file open in it"
        maps = Path(f"{proc}/{name}/maps").read_bytes()
    except OSError:
        return ""
    return "has a file mapped from it" if f" {where}/".encode() in maps else ""


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _is_below(path: str, where: str) -> bool:
    return path == where or path.startswith(f"{where}/")


def _comm(proc: Path, name: str) -> str:
    try:
        return Path(f"{proc}/{name}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return "?"
