"""Mounts that are one at several paths: made together, and unmounted together.

A folder that is bound to a second path of shared mounts, as `mount --bind /data/kubelet /var/lib/kubelet`
does it on most hosts, shows each later mount below it at both.

The peer group of such a mount alone does not tell: a bind of it, which stays when it goes, is in the same
group. What tells is where it lies: an unmount spreads to the same place on each peer, and each slave, of the
mount beneath.

Source: mount_namespaces(7); Documentation/filesystems/sharedsubtree.rst, "Unmount semantics".
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from katacsi.host import mounttable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from katacsi.host.mounttable import Mount


class _Place(NamedTuple):
    """Where a mount lies: the peer group beneath it, the path in that filesystem, and what is seen there."""

    group: str
    path: PurePosixPath
    device: tuple[int, int]
    root: str


def going_with(mounts: Collection[Mount]) -> set[int]:
    """Give the ids of these mounts, and of those that the kernel unmounts with them."""
    by_id = {mount.id: mount for mount in mounttable.table()}
    places = {place for mount in mounts for place in _places(mount, by_id, ("shared:",))}
    together = {
        mount.id
        for mount in by_id.values()
        if not places.isdisjoint(_places(mount, by_id, ("shared:", "master:")))
    }
    return together | {mount.id for mount in mounts}


def _places(mount: Mount, by_id: Mapping[int, Mount], kinds: tuple[str, ...]) -> set[_Place]:
    beneath = by_id.get(mount.parent_id)
    if beneath is None or not mount.target.is_relative_to(beneath.target):
        return set()  # at the root of what this process sees, or out of its sight
    path = PurePosixPath(beneath.root) / mount.target.relative_to(beneath.target)
    return {
        _Place(word.partition(":")[2], path, mount.device, mount.root)
        for word in beneath.propagation
        if word.startswith(kinds)
    }
