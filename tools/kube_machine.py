"""What makes namespaces a node: mounts, addresses, kernel settings and a cgroup. Runs inside them.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from kube_files import NODE, NODE_IP, POD_NET, SERVICE_IP

if TYPE_CHECKING:
    from kube_files import Files

CGROUPS = Path("/sys/fs/cgroup")

#: The kubelet sets these for the whole machine, unless it finds them so.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def make(files: Files) -> None:
    """Give the namespaces that we are in what a node has.

    Raises:
        subprocess.CalledProcessError: the machine refuses a mount or an address.
    """
    _mounts(files)
    _addresses()
    _kernel_settings(files.folder / "kernel")
    for hierarchy in hierarchies():
        (hierarchy / files.cgroup).mkdir(exist_ok=True)


def _mounts(files: Files) -> None:
    _sh("mount --make-rshared /")  # as on a node: a pod's Bidirectional mount is one of a shared mount
    _sh("mount -t tmpfs -o mode=755 tmpfs /run; mkdir /run/lock")
    for source, target in ((files.log, "/var/log"), (files.folder / "kubelet", "/var/lib/kubelet")):
        Path(target).mkdir(parents=True, exist_ok=True)
        # A peer group of its own: in that of / each mount below would appear at both paths.
        _sh(f"mount --bind {source} {target}; mount --make-private {target}; mount --make-shared {target}")


def _addresses() -> None:
    """Make the node's network: a bridge, since the kubelet refuses a loopback address."""
    _sh(f"""
hostname {NODE}
ip link set lo up
ip link add lab0 type bridge
ip addr add {NODE_IP}/24 dev lab0
ip addr add {SERVICE_IP}/32 dev lab0
ip addr add {POD_NET}.1/24 dev lab0
ip link set lab0 up
ip route add default dev lab0
echo 1 >/proc/sys/net/ipv4/ip_forward
""")


def _kernel_settings(folder: Path) -> None:
    """Show the kubelet files that have its values already, so that it leaves the machine's alone."""
    folder.mkdir(exist_ok=True)
    for name, value in KERNEL_SETTINGS.items():
        file = folder / name.replace("/", ".")
        file.write_text(value, "ascii")
        _sh(f"mount --bind {file} /proc/sys/{name}")


def hierarchies() -> list[Path]:
    """Return the folders in which the node's cgroup is made: one of version 2, or one for each controller."""
    if (CGROUPS / "cgroup.controllers").exists():
        for name in (CGROUPS / "cgroup.controllers").read_text("ascii").split():
            with contextlib.suppress(OSError):  # version 2 hands controllers on only where it is told to
                (CGROUPS / "cgroup.subtree_control").write_text(f"+{name}", "ascii")
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def remove_cgroups(name: str) -> None:
    """Remove the cgroup of a cluster that has ended, and those below it; one in use stays."""
    for hierarchy in hierarchies():
        top = hierarchy / name
        for folder in (*sorted(top.rglob("*/"), key=lambda path: -len(path.parts)), top):
            with contextlib.suppress(OSError):
                folder.rmdir()


def missing() -> str:
    """Say what this machine lacks for a cluster; empty when it lacks nothing."""
    needed = ("unshare", "nsenter", "setpriv", "mount", "ip", "openssl", "losetup", "mkfs.xfs")
    if lacking := [name for name in needed if not shutil.which(name)]:
        return f"{', '.join(lacking)} not found: install util-linux, iproute2, openssl and xfsprogs"
    tried = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "bash",
            "-c",
            "mount --make-rshared / && ip link add lab0 type bridge",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return (
            f"no namespaces with mounts and a bridge here ({tried.stderr.strip()}): use a privileged machine"
        )
    try:
        for hierarchy in hierarchies():
            # Tried, not guessed: a hierarchy may be mounted read-only, and its modes say nothing to root.
            (hierarchy / f"katacsi-try-{os.getpid()}").mkdir()
            (hierarchy / f"katacsi-try-{os.getpid()}").rmdir()
    except OSError as error:
        return f"no cgroup can be made in {CGROUPS} ({error}): use a privileged machine"
    return ""


def _sh(script: str) -> None:
    subprocess.run(["bash", "-euc", script], check=True)
