"""What katacsi itself has where it runs: tools, rights, and the folders by which guests are found."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.bundles import STOCK_PLACES
from katacsi.doctor.hostfiles import OWN
from katacsi.doctor.kataconfig import Flavour
from katacsi.findings import Checks, Harm, Unread, failure, note, ok, unknown, warning
from katacsi.host import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

DRIVER: Final[Checks[Judge]] = Checks("Node")

#: What katacsi runs for each filesystem. btrfs is for host mounts alone.
TOOLS: Final[Mapping[str, Sequence[str]]] = {
    "all": ("blkid",),
    "ext4": ("mkfs.ext4", "e2fsck", "resize2fs", "tune2fs", "debugfs"),
    "xfs": ("mkfs.xfs", "xfs_db", "xfs_logprint"),
    "btrfs": ("mkfs.btrfs", "btrfstune"),
}

#: <linux/capability.h>
CAP_SYS_ADMIN: Final = 21

CAP_SYS_RESOURCE: Final = 24

_SANDBOXES: Final = "/run/kata-containers/shared/sandboxes"


def guest_paths(files: HostFiles) -> dict[str, tuple[bool, bool]]:
    """Say which of the folders, by which guests are found, this process and the node have."""
    folders = [*(place.partition("/*/")[0] for place in STOCK_PLACES), _SANDBOXES]
    return {folder: (OWN.is_there(folder), files.is_there(folder)) for folder in folders}


def capabilities() -> int | Unread:
    """Give the capabilities that this process has now."""
    text = OWN.text("/proc/self/status")
    if not isinstance(text, str):
        return text or Unread("/proc/self/status: is missing")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(found[1], 16) if found else Unread("/proc/self/status: names no capabilities")


def user() -> int:
    """Give the number of the user as whom this process runs."""
    return os.geteuid()


def installed_tools() -> frozenset[str]:
    """Name the tools that are installed here."""
    wanted: Sequence[str] = [name for names in TOOLS.values() for name in names]
    return frozenset(name for name in wanted if shutil.which(name, path=command.ENVIRONMENT["PATH"]))


# -- checks ---------------------------------------------------------------------------------------------


@DRIVER.add(
    "node-tools",
    "the tools of the filesystems",
    Harm.PODS,
    "A volume cannot be formatted, checked or grown without them. They are looked for where doctor runs; in "
    "a cluster that is katacsi's image.",
)
def tools(node: Node) -> Iterator[Result]:
    """Look for what the default filesystem, and the others, need."""
    default = node.settings.default_filesystem if node.settings else "ext4"
    for filesystem, names in TOOLS.items():
        missing = [name for name in names if name not in node.tools]
        packages = " ".join(sorted({command.PACKAGES[name] for name in missing}))
        if not missing:
            yield ok(f"tools: {filesystem}", ", ".join(names))
        elif filesystem in {"all", default}:
            yield failure(
                f"tools: {filesystem}",
                f"{', '.join(missing)} not found",
                f"install {packages} (Debian's names)",
            )
        else:
            yield warning(
                f"tools: {filesystem}",
                f"{', '.join(missing)} not found; volumes with {filesystem} fail",
                f"install {packages} (Debian's names), or use {default} only",
            )


@DRIVER.add(
    "node-rights",
    "what this process may do",
    Harm.PODS,
    "Mounts and loop devices need CAP_SYS_ADMIN. A mounted ext4 grows only with CAP_SYS_RESOURCE; without "
    "it growth waits for the pod's next start.",
)
def rights(node: Node) -> Iterator[Result]:
    """Look at the capabilities."""
    held = node.capabilities
    if isinstance(held, Unread):
        yield unknown("this process", held.reason)
        return
    if not held >> CAP_SYS_ADMIN & 1:
        yield failure(
            "this process",
            f"user {node.user}, no CAP_SYS_ADMIN",
            "run it as root; in a cluster make the container privileged",
        )
    elif not held >> CAP_SYS_RESOURCE & 1:
        yield warning(
            "this process",
            "no CAP_SYS_RESOURCE: a mounted ext4 does not grow",
            "make the container privileged, or use xfs for host mounts that must grow",
            Harm.NONE,
        )
    else:
        yield ok("this process", "CAP_SYS_ADMIN and CAP_SYS_RESOURCE")


@DRIVER.add(
    "node-guest-statistics",
    "paths by which guests of runtime-rs are found",
    Harm.NONE,
    "runtime-rs does not say which sandbox has a volume, nor where. katacsi reads the containers' bundles "
    "and the sandboxes' folders; without them NodeGetVolumeStats has the size only.",
)
def guest_statistics(node: Node) -> Iterator[Result]:
    """Look whether katacsi sees what the node has."""
    if not any(one.flavour is Flavour.RUST for one in node.kata.configurations):
        return
    hidden = [path for path, (here, there) in node.guest_paths.items() if there and not here]
    seen = [path for path, (here, _) in node.guest_paths.items() if here]
    for path in hidden:
        yield warning(
            path,
            "the node has it, this container has not",
            "mount it read-only, with mountPropagation: HostToContainer",
        )
    if not hidden and seen:
        yield ok("guests of runtime-rs", ", ".join(seen))
    elif not hidden:
        yield note("guests of runtime-rs", "none of their folders is there; no pod of Kata has run yet")
