"""What the lab's machine needs and this one lacks: Debian packages, unpacked into one folder of the cache.

The lab's machine lays that folder over the root of this one.

Standard library only: this runs before there is a venv.
"""

from __future__ import annotations

from pathlib import Path

from debian_packages import CACHE, Packages, Unavailable

__all__ = ["CACHE", "Unavailable", "guest_tree"]

#: What the machine runs on, then what the tests in it use.
PACKAGES = Packages(
    name="lab",
    main="user-mode-linux",
    main_file=Path("/usr/bin/linux.uml"),
    others=(
        "kmod", "udev", "mount", "util-linux", "iproute2",
        "lvm2", "thin-provisioning-tools", "e2fsprogs", "xfsprogs", "btrfs-progs",
    ),
)  # fmt: skip


def guest_tree() -> Path:
    """Return the folder of the unpacked packages, making it on first use.

    Raises:
        Unavailable: no apt, no such package, or it cannot be downloaded.
    """
    return PACKAGES.tree()
