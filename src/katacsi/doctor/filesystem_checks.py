"""What the volumes' filesystems need of the node: tools, and a kernel that mounts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.model import Checks, Harm, Unread, failure, ok, unknown, warning
from katacsi.host.command import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node

FILESYSTEMS: Final = Checks("Node")

#: What katacsi runs for each filesystem. btrfs is for host mounts alone.
TOOLS: Final[Mapping[str, Sequence[str]]] = {
    "all": ("blkid",),
    "ext4": ("mkfs.ext4", "e2fsck", "resize2fs", "tune2fs", "debugfs"),
    "xfs": ("mkfs.xfs", "xfs_db", "xfs_logprint"),
    "btrfs": ("mkfs.btrfs", "btrfstune"),
}
_FILESYSTEMS: Final = ("ext4", "xfs")


@FILESYSTEMS.add(
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
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
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


@FILESYSTEMS.add(
    "node-filesystems",
    "filesystems that the kernel can mount",
    Harm.PODS,
    "For host mounts. A direct volume is mounted by the guest's kernel, which knows ext4 and xfs.",
)
def filesystems(node: Node) -> Iterator[Result]:
    """Look whether the kernel knows them, or can load them."""
    kernel = node.kernel
    if isinstance(kernel.filesystems, Unread):
        yield unknown("kernel", kernel.filesystems.reason)
        return
    for name in _FILESYSTEMS:
        if name in kernel.filesystems:
            yield ok(f"kernel: {name}", "/proc/filesystems has it")
        elif isinstance(kernel.modules, Unread):
            yield unknown(f"kernel: {name}", f"not loaded, and {kernel.modules.reason}", harm=Harm.NONE)
        elif name in kernel.modules:
            yield ok(f"kernel: {name}", "is a module, loaded when it is needed")
        else:
            yield warning(
                f"kernel: {name}",
                f"kernel {kernel.release} has neither it nor a module",
                f"use another kernel, or {name} for direct volumes only",
            )
