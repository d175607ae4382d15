"""What Kata's agent does in the guest, with the tools that the guest has.

Paths: src/agent/src/storage/mod.rs, src/agent/src/mount.rs, src/libs/kata-sys-util/src/mount.rs.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.kata_runtime.records import CreateFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.kata_runtime.machine import Machine

#: Words that the agent turns into flags of mount(2) (parse_mount_flags); every other is for the filesystem.
_FLAGS = frozenset(
    (
        "defaults", "async", "atime", "dev", "diratime", "exec", "loud", "noiversion", "nomand", "norelatime",
        "nostrictatime", "rw", "suid", "bind", "dirsync", "iversion", "mand", "noatime", "nodev",
        "nodiratime", "noexec", "nosuid", "rbind", "unbindable", "runbindable", "private", "rprivate",
        "shared", "rshared", "slave", "rslave", "relatime", "remount", "ro", "silent", "strictatime", "sync",
    )
)  # fmt: skip
#: What mount(8), unlike the agent's mount(2), keeps from the kernel.
_SWALLOWED = ("_netdev", "nofail", "auto", "noauto", "user", "nouser", "users", "owner", "group")


@dataclass(frozen=True)
class FsGroup:
    """Whom the files are to belong to."""

    gid: int
    on_root_mismatch: bool


@dataclass(frozen=True)
class GuestUsage:
    """statfs(2) in the guest."""

    block_size: int
    blocks: int
    free_blocks: int
    files: int
    free_files: int


class Agent:
    """The agent of one guest."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def mount_storage(
        self, device: str, at: str, fs_type: str, options: Sequence[str], group: FsGroup | None = None
    ) -> None:
        """Mount a device, and give its files to a group (common_storage_handler)."""
        if not fs_type:
            raise CreateFailed("need mount FS type")
        words = mount_words(options)
        made = f"mkdir -p {shlex.quote(at)} && "
        if "bind" in options or "rbind" in options:
            # mount(2) with MS_BIND takes the device's node for the source, and the folder for the target:
            # ENOTDIR. The tool would make the same call, but tell it differently.
            command = f"mount -o bind {device} {shlex.quote(at)}"
        else:
            joined = f"-o {shlex.quote(','.join(words))} " if words else ""
            command = f"mount -t {shlex.quote(fs_type)} {joined}{device} {shlex.quote(at)}"
            if "ro" not in words:
                # Of a read-only device the tool makes a read-only mount by itself; mount(2) fails.
                command += (
                    f" && {{ grep -q ' {at} [^ ]* rw' /proc/mounts"
                    f" || {{ umount {shlex.quote(at)}; echo Read-only device; false; }}; }}"
                )
        self._succeed(made + command, f"failed to mount {device} to {at}")
        if group is not None:
            try:
                self._set_ownership(at, group)
            except CreateFailed:
                self.unmount(at)
                raise

    def unmount(self, at: str) -> None:
        """Unmount, and remove the mount point."""
        self._succeed(f"umount {shlex.quote(at)} && rmdir {shlex.quote(at)}", f"failed to unmount {at}")

    def bind(self, source: str, at: str, *, read_only: bool) -> None:
        """Make a container's mount of what the guest has (rustjail, bind_mount)."""
        source, at = shlex.quote(source), shlex.quote(at)
        self._succeed(f"test -e {source}", f"canonicalize {source}: No such file or directory (os error 2)")
        remount = f" && mount -o remount,bind,ro {at}" if read_only else ""
        self._succeed(f"mkdir -p {at} && mount -o bind {source} {at}{remount}", f"failed to bind {source}")

    def usage(self, at: str) -> GuestUsage:
        """Count as get_volume_capacity_stats and get_volume_inode_stats do (rpc.rs)."""
        answer = self._succeed(f"stat -f -c '%S %b %f %c %d' {shlex.quote(at)}", f"statfs {at}")
        return GuestUsage(*map(int, answer.split()))

    def grow(self, at: str, device: str) -> None:
        """Grow a mounted filesystem to its device; no agent of stock Kata can."""
        self._succeed(
            f"case $(stat -f -c %T {at}) in xfs) xfs_growfs {at};; *) resize2fs {device};; esac",
            f"failed to grow {at}",
        )

    def _set_ownership(self, at: str, group: FsGroup) -> None:
        # Unlike the agent this does not follow links to folders (mod.rs:509), which may walk out of the
        # volume or in circles: no driver could do anything about it.
        quoted = shlex.quote(at)
        if group.on_root_mismatch:
            gid, mode = self._succeed(f"stat -c '%g %a' {quoted}", f"failed to stat {at}").split()
            bits = int(mode, 8)
            if int(gid) == group.gid and bits & 0o770 == 0o770 and bits & 0o2000:
                return
        # Group first: chown clears the set-group-id bit, and the folder comes after what it holds.
        self._succeed(
            f"find {quoted} -depth ! -type l -exec chgrp {group.gid} {{}} + && "
            f"find {quoted} -depth ! -type l ! -type d -exec chmod ug+rw {{}} + && "
            f"find {quoted} -depth -type d -exec chmod ug+rwx,g+s {{}} +",
            f"failed to change the ownership of {at}",
        )

    def _succeed(self, command: str, failure: str) -> str:
        answer = self._machine.run(command)
        if answer.code:
            raise CreateFailed(f"{failure}: {answer.output.strip()}")
        return answer.output


def mount_words(options: Sequence[str]) -> list[str]:
    """Give the words for the guest's mount(8) that have the effect of the agent's mount(2).

    Raises:
        CreateFailed: `loop`, which is the only word that the agent itself refuses (parse_mount_options).
    """
    if "loop" in options:
        raise CreateFailed("Invalid mount option: loop")
    return [_word(word) for word in options]


def _word(word: str) -> str:
    if word in _FLAGS:
        return word
    hidden = word in _SWALLOWED or word.startswith(("x-", "X-", "comment="))
    # The kernel gets to see such a word from the agent, and refuses it as any that it does not know.
    return f"unknown.{word}" if hidden else word
