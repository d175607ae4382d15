"""Kata's record of one direct-assigned volume: its fields, its byte form, and what may be in it.

The bytes are those of Go's encoding/json for Kata's `MountInfo`, and a record that is read here means the
same to both runtimes (see `reading`). Source: kata-containers, runtime/pkg/direct-volume/utils.go and
libs/kata-types/src/mount.rs; tests/vectors keeps what they answered.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from katacsi.directvolume.names import MAX_TARGET_BYTES, entry_name
from katacsi.directvolume.reading import GROUP_CHANGE_POLICIES, MAX_GROUP_ID, Reader
from katacsi.errors import InvalidRequest
from katacsi.host import fsoptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["MAX_TARGET_BYTES", "VOLUME_TYPE", "DirectVolumeRecord", "clean_options", "entry_name"]

#: The only type that both runtimes take: Go ignores the field, runtime-rs refuses "block" and "blk".
VOLUME_TYPE = "directvol"

#: The policy for "leave ownership alone": then the group must not reach Kata at all.
NO_GROUP_CHANGE = "None"

# mount(2) operations, and what they are made with: Go hands options to the guest unfiltered, where `bind` of
# a device on a folder is ENOTDIR and `loop` a hard error (kata-sys-util/src/mount.rs).
_PROPAGATION = ("private", "shared", "slave", "unbindable")
_OPERATIONS = frozenset(
    ("bind", "rbind", "remount", "move", "loop", *_PROPAGATION, *(f"r{word}" for word in _PROPAGATION))
)
# What only fstab(5) and mount(8) know; the guest's kernel would refuse the mount.
_FSTAB_ONLY = frozenset(
    ("auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "defaults", "rw")
)
_FSTAB_ONLY_PREFIXES = ("x-", "X-", "comment=", "loop=")

# A comma separates options, except within double quotes (context="…:c1,c2").
_OPTION = re.compile(r'(?:[^,"]|"[^"]*"?)+')


def clean_options(flags: Iterable[str], read_only: bool) -> tuple[str, ...]:
    """Keep the mount options that mean something to a guest's mount(2); `ro` comes first.

    Several options in one flag are taken apart: Kata compares whole words.
    """
    words = [word.strip() for flag in flags for word in _OPTION.findall(flag)]
    kept = tuple(word for word in words if word and word != "ro" and not _host_only(word))
    return ("ro", *kept) if read_only or "ro" in words else kept


def _host_only(word: str) -> bool:
    if word in _OPERATIONS or word in _FSTAB_ONLY or word.startswith(_FSTAB_ONLY_PREFIXES):
        return True
    return fsoptions.is_host_only(word)


@dataclass(frozen=True, slots=True)
class DirectVolumeRecord:
    """What a Kata runtime is told about one volume.

    There is no field for other metadata, so that nothing of a user's ever gets there: Kata acts on some keys
    (`createFilesystem` runs mkfs at each container start) and logs the values of all others.

    Equal records have equal bytes: a group that Kata must not see is `None` as soon as the record is made.

    Attributes:
        device: absolute path of the block device, as the shim on the host sees it.
        fs_type: what the guest mounts it as.
        options: the guest's mount options; use `clean_options`.
        fs_group: the group that is to own the files; `None`, 0 and any on a read-only volume ask for nothing.
        fs_group_change_policy: "OnRootMismatch" or "Always" (also when empty), or "None": no `fs_group`.
    """

    device: str
    fs_type: str
    options: tuple[str, ...] = ()
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    volume_type: str = VOLUME_TYPE

    def __post_init__(self) -> None:
        if self.fs_group is not None and not 0 <= self.fs_group <= MAX_GROUP_ID:
            raise InvalidRequest(
                "volume_mount_group", f"{self.fs_group} is no group id; give 1 to {MAX_GROUP_ID}"
            )
        if self.fs_group_change_policy not in ("", NO_GROUP_CHANGE, *GROUP_CHANGE_POLICIES):
            raise InvalidRequest(
                "fs_group_change_policy",
                f"{self.fs_group_change_policy!r} is none of {', '.join(GROUP_CHANGE_POLICIES)}",
            )
        # The agent refuses group 0, and its chown fails the container on a read-only filesystem.
        if not self.fs_group or self.read_only or self.fs_group_change_policy == NO_GROUP_CHANGE:
            object.__setattr__(self, "fs_group", None)
            object.__setattr__(self, "fs_group_change_policy", "")

    @property
    def read_only(self) -> bool:
        """Whether the guest gets the volume read-only."""
        return "ro" in self.options

    @property
    def metadata(self) -> dict[str, str]:
        """What the record's metadata holds: the group and how to apply it, or nothing."""
        if self.fs_group is None:
            return {}
        metadata = {"fsGroup": str(self.fs_group)}
        if self.fs_group_change_policy:
            metadata["fsGroupChangePolicy"] = self.fs_group_change_policy
        return metadata

    def to_json(self) -> bytes:
        """Give the bytes that Kata's own Go code would write for this record."""
        fields: dict[str, Any] = {
            "volume-type": self.volume_type,
            "device": self.device,
            "fstype": self.fs_type,
            "metadata": self.metadata,
            "options": list(self.options),
        }
        # `omitempty`; runtime-rs refuses null in their place.
        present = {key: value for key, value in fields.items() if isinstance(value, str) or value}
        text = json.dumps(present, ensure_ascii=False, separators=(",", ":"))
        return text.translate(_GO_ESCAPES).encode()

    @classmethod
    def from_json(cls, data: bytes, path: Path | str) -> Self:
        """Read a record as runtime-rs does, where Go's package reads the same; unknown keys are dropped.

        Raises:
            CorruptRecord: the bytes are no record; the message names `path` and what is wrong.
        """
        return cls(**Reader(path).fields(data))


# encoding/json keeps its output safe within HTML and JavaScript.
_GO_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "&<>\u2028\u2029"}
