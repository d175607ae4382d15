"""What the lab's machines need and this one lacks: Debian packages, unpacked into the cache.

A machine lays the folder of the tools over the root of this one. The kernel is its engine's business.

Standard library only: this runs before there is a venv.
"""

from __future__ import annotations

from pathlib import Path

from debian_packages import CACHE, Packages, Unavailable

__all__ = ["CACHE", "KERNEL", "TOOLS", "Unavailable", "guest_tree"]

#: What a machine runs on, then what the tests in it use.
TOOLS = Packages(
    name="lab",
    main="lvm2",
    main_file=Path("/usr/sbin/lvm"),
    others=(
        "kmod", "udev", "mount", "util-linux", "iproute2",
        "thin-provisioning-tools", "e2fsprogs", "xfsprogs", "btrfs-progs",
    ),
)  # fmt: skip

#: The kernel of the engine `uml`, with its modules.
KERNEL = Packages(name="uml", main="user-mode-linux", main_file=Path("/usr/bin/linux.uml"), others=())


def guest_tree() -> Path:
    """Return the folder of the unpacked tools, making it on first use.

    Raises:
        Unavailable: no apt, no such package, or it cannot be downloaded.
    """
    return TOOLS.tree()
