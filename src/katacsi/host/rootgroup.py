"""Gives the root directory of a filesystem that nobody has mounted to a group, in userspace.

A guest mounts a direct volume itself, and not every runtime gives it the pod's group. The host must not mount
what a guest wrote, but it can change the one inode that decides who may write into the volume.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from katacsi.errors import HostError, Unsupported
from katacsi.host import command, journal, superblock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from katacsi.host.ownership import Policy

# What the guest's agent, like the kubelet, looks for and gives: kata-containers, agent/src/storage/mod.rs.
_ACCESS: Final = 0o770
_WANTED: Final = _ACCESS | stat.S_ISGID

_FSCK_OK: Final = (0, 1)  # fsck(8): 1 is "errors corrected"
_ROOT_INODE: Final = "<2>"
_LARGEST_BLOCK: Final = 64 << 10
#: Seconds for looking at, or changing, one inode.
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Root:
    """A root directory: its group, and its mode with the file type."""

    gid: int
    mode: int


class _Tool(Protocol):
    """Reads and changes root directories of one kind of filesystem."""

    def read(self, device: Path) -> _Root: ...

    def is_empty(self, device: Path) -> bool: ...

    def is_replayed(self, device: Path) -> bool: ...

    def replay(self, device: Path, timeout_s: float) -> None: ...

    def write(self, device: Path, gid: int, mode: int) -> None: ...


def has_root_group(device: Path, gid: int, policy: Policy) -> bool:
    """Say whether `ensure_root_group` would change nothing; of a mounted filesystem this may be outdated.

    Raises:
        Unsupported: neither ext4 nor xfs.
        HostError: the root directory cannot be read.
    """
    if policy == "None":
        return True
    tool = _tool(superblock.read(device), device)
    return _wanted_mode(tool, device, gid, policy) is None


def ensure_root_group(device: Path, gid: int, policy: Policy, *, timeout_s: float = 3600.0) -> bool:
    """Let the members of a group write into the root directory; what lies in it stays as it is.

    New files inherit the group, unless that would deceive whoever walks the whole tree later: with
    "OnRootMismatch" a runtime that knows the group takes a root that looks right for a tree that is. So a
    root that is not empty gets no set-group-id bit then, and still looks wrong to it.

    Args:
        device: ext4 or xfs, mounted nowhere and held by nobody.
        gid: the group.
        policy: "None" changes nothing.
        timeout_s: seconds, for replaying an ext4 journal.

    Returns:
        whether anything was changed.

    Raises:
        Unsupported: another filesystem, or an xfs whose log only a mount can replay.
        HostError: a tool failed, or the change did not come about.
    """
    if has_root_group(device, gid, policy):
        return False
    found = superblock.read(device)
    tool = _tool(found, device)
    if not (found and found.clean and tool.is_replayed(device)):
        tool.replay(device, timeout_s)
    mode = _wanted_mode(tool, device, gid, policy)
    if mode is None:
        return False
    tool.write(device, gid, mode)
    if not has_root_group(device, gid, policy):
        raise HostError(f"{device}: the root directory did not go to group {gid}; check the filesystem")
    return True


def _tool(found: superblock.Superblock | None, device: Path) -> _Tool:
    if found is None or found.fs_type not in _TOOLS:
        kind = found.fs_type if found else "no filesystem"
        raise Unsupported(f"{device}: has {kind}; only of an unmounted ext4 or xfs the group can be set")
    return _TOOLS[found.fs_type]()


def _wanted_mode(tool: _Tool, device: Path, gid: int, policy: Policy) -> int | None:
    """Give the mode that the root is to have; None: group and mode are right."""
    root = tool.read(device)
    if root.gid == gid and root.mode & _WANTED == _WANTED:
        return None
    mode = root.mode | _ACCESS
    if policy == "Always" or tool.is_empty(device):
        mode |= stat.S_ISGID
    else:
        mode &= ~stat.S_ISGID
    return None if (root.gid, root.mode) == (gid, mode) else mode


class _Ext4:
    """debugfs(8), which tells failures by its words only."""

    def read(self, device: Path) -> _Root:
        said = self._debugfs(device, f"stat {_ROOT_INODE}")
        gid = re.search(r"^User:\s*\d+\s+Group:\s*(\d+)", said, re.MULTILINE)
        mode = re.search(r"^Inode: 2\s+Type: directory\s+Mode:\s*([0-7]+)", said, re.MULTILINE)
        if not (gid and mode):
            raise HostError(f"{device}: debugfs does not show the root directory; check it with e2fsck(8)")
        return _Root(int(gid[1]), stat.S_IFDIR | int(mode[1], 8))

    def is_empty(self, device: Path) -> bool:
        size = re.search(r"\bSize: (\d+)$", self._debugfs(device, f"stat {_ROOT_INODE}"), re.MULTILINE)
        if size is None or int(size[1]) > _LARGEST_BLOCK:  # beyond it there are, or were, files
            return False
        # /inode/mode/uid/gid/name/size/, and the name may have any byte but the slash
        said = self._debugfs(device, f"ls -p {_ROOT_INODE}")
        names = re.findall(r"^/\d+/\d+/\d+/\d+/([^/]*)/\d*/$", said, re.MULTILINE)
        return set(names) == {".", "..", "lost+found"}

    def is_replayed(self, device: Path) -> bool:
        del device  # the superblock says it
        return True

    def replay(self, device: Path, timeout_s: float) -> None:
        command.run(["e2fsck", "-p", "-E", "journal_only", device], timeout_s=timeout_s, ok=_FSCK_OK)

    def write(self, device: Path, gid: int, mode: int) -> None:
        command.run(
            ["debugfs", "-w", "-f", "/dev/stdin", device],
            timeout_s=_TIMEOUT_S,
            stdin=f"sif {_ROOT_INODE} gid {gid}\nsif {_ROOT_INODE} mode 0{mode:o}\n".encode(),
        )

    def _debugfs(self, device: Path, request: str) -> str:
        said = command.run(["debugfs", "-R", request, device], timeout_s=_TIMEOUT_S)
        return said.stdout.decode(errors="replace")


class _Xfs:
    """xfs_db(8), which keeps the checksums right."""

    def read(self, device: Path) -> _Root:
        said = self._xfs_db(device, "-r", "p core.mode core.gid")
        facts = dict(re.findall(r"^(\S+) = (\d+)", said, re.MULTILINE))
        if "core.mode" not in facts or "core.gid" not in facts:
            raise HostError(f"{device}: xfs_db does not show the root directory; check it with xfs_repair(8)")
        return _Root(int(facts["core.gid"]), int(facts["core.mode"], 8))

    def is_empty(self, device: Path) -> bool:
        # Only a folder so small that it lies in its inode has this count.
        said = self._xfs_db(device, "-r", "p u3.sfdir3.hdr.count")
        return bool(re.search(r"^u3\.sfdir3\.hdr\.count = 0$", said, re.MULTILINE))

    def is_replayed(self, device: Path) -> bool:
        return journal.is_clean_xfs(device)

    def replay(self, device: Path, timeout_s: float) -> None:
        del timeout_s
        raise Unsupported(
            f"{device}: only a mount can replay this xfs's log, which its guest left; the group can be set "
            "after the guest has mounted and unmounted it once"
        )

    def write(self, device: Path, gid: int, mode: int) -> None:
        self._xfs_db(device, "-x", f"write core.gid {gid}", f"write core.mode 0{mode:o}")

    def _xfs_db(self, device: Path, access: str, *requests: str) -> str:
        words = [word for request in ("sb 0", "addr rootino", *requests) for word in ("-c", request)]
        said = command.run(["xfs_db", access, *words, device], timeout_s=_TIMEOUT_S)
        return said.stdout.decode(errors="replace")


_TOOLS: Final[Mapping[str, type[_Tool]]] = {"ext4": _Ext4, "xfs": _Xfs}
