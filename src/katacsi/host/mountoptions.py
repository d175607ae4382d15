"""Mount options as people write them, and what they are for the kernel.

Source: mount(8), mount(2), mount_setattr(2).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from katacsi import errors
from katacsi.host import _linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: User option to (bits to set, bits to clear) of mount(2); the other options are the filesystem's own.
_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (_linux.MS_RDONLY, 0),
    "rw": (0, _linux.MS_RDONLY),
    "nosuid": (_linux.MS_NOSUID, 0),
    "suid": (0, _linux.MS_NOSUID),
    "nodev": (_linux.MS_NODEV, 0),
    "dev": (0, _linux.MS_NODEV),
    "noexec": (_linux.MS_NOEXEC, 0),
    "exec": (0, _linux.MS_NOEXEC),
    "sync": (_linux.MS_SYNCHRONOUS, 0),
    "async": (0, _linux.MS_SYNCHRONOUS),
    "dirsync": (_linux.MS_DIRSYNC, 0),
    "mand": (_linux.MS_MANDLOCK, 0),
    "nomand": (0, _linux.MS_MANDLOCK),
    "nosymfollow": (_linux.MS_NOSYMFOLLOW, 0),
    "symfollow": (0, _linux.MS_NOSYMFOLLOW),
    "noatime": (_linux.MS_NOATIME, 0),
    "atime": (0, _linux.MS_NOATIME),
    "nodiratime": (_linux.MS_NODIRATIME, 0),
    "diratime": (0, _linux.MS_NODIRATIME),
    "relatime": (_linux.MS_RELATIME, 0),
    "norelatime": (0, _linux.MS_RELATIME),
    "strictatime": (_linux.MS_STRICTATIME, 0),
    "nostrictatime": (0, _linux.MS_STRICTATIME),
    "lazytime": (_linux.MS_LAZYTIME, 0),
    "nolazytime": (0, _linux.MS_LAZYTIME),
    "iversion": (_linux.MS_I_VERSION, 0),
    "noiversion": (0, _linux.MS_I_VERSION),
    "silent": (_linux.MS_SILENT, 0),
    "loud": (0, _linux.MS_SILENT),
}

#: User option to (bits to set, bits to clear) of mount_setattr(2), for those that one bind mount can have.
_BIND_FLAGS: dict[str, tuple[int, int]] = {
    "ro": (_linux.MOUNT_ATTR_RDONLY, 0),
    "nosuid": (_linux.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, _linux.MOUNT_ATTR_NOSUID),
    "nodev": (_linux.MOUNT_ATTR_NODEV, 0),
    "dev": (0, _linux.MOUNT_ATTR_NODEV),
    "noexec": (_linux.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, _linux.MOUNT_ATTR_NOEXEC),
    "nosymfollow": (_linux.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, _linux.MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (_linux.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, _linux.MOUNT_ATTR_NODIRATIME),
    "relatime": (_linux.MOUNT_ATTR_RELATIME, _linux.MOUNT_ATTR_ATIME),
    "noatime": (_linux.MOUNT_ATTR_NOATIME, _linux.MOUNT_ATTR_ATIME),
    "strictatime": (_linux.MOUNT_ATTR_STRICTATIME, _linux.MOUNT_ATTR_ATIME),
}

#: Options for programs that read fstab; mount(8) does not pass them on either.
_FOR_USERSPACE = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail"}
)

#: These would make another call of mount(2), with another meaning.
_FORBIDDEN = frozenset(
    {
        "bind",
        "rbind",
        "remount",
        "move",
        "loop",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
    }
    | {"unbindable", "runbindable"}
)

#: mount(2) reads one page of options and cuts off the rest without a word.
_MAX_DATA_BYTES = 4095


def split_flags(flags: Sequence[str]) -> tuple[int, str]:
    """Split mount options into the bits of mount(2) and the filesystem's own options.

    Later ones win. What only programs read (defaults, x-…) is dropped.

    Raises:
        InvalidRequest: an option that would not mount a filesystem (bind, remount, shared …), or too many.
    """
    bits, data = 0, []
    for option in options(flags):
        if option in _FORBIDDEN:
            raise errors.InvalidRequest("mount_flags", f"{option} is not an option of a volume")
        if option in _FLAGS:
            added, removed = _FLAGS[option]
            bits = bits & ~removed | added
        elif _is_own(option):
            data.append(option)
    text = ",".join(data)
    if "\0" in text or len(os.fsencode(text)) > _MAX_DATA_BYTES:
        raise errors.InvalidRequest("mount_flags", f"more than {_MAX_DATA_BYTES} bytes, or a NUL in them")
    return bits, text


def of_filesystem(flags: Sequence[str]) -> list[str]:
    """Give the options that are the filesystem's own: no flag of mount(2), and nothing for programs only."""
    return [option for option in options(flags) if option not in {*_FLAGS, *_FORBIDDEN} and _is_own(option)]


def _is_own(option: str) -> bool:
    return option not in _FOR_USERSPACE and not option.startswith(("x-", "X-", "comment=", "loop="))


def options(flags: Sequence[str]) -> Iterator[str]:
    """Give single options of a list whose elements may be several; a comma in quotes belongs to a value."""
    for flag in flags:
        start, quoted = 0, False
        for position, sign in enumerate(flag):
            if sign == '"':
                quoted = not quoted
            elif sign == "," and not quoted:
                yield from _one(flag[start:position])
                start = position + 1
        yield from _one(flag[start:])


def _one(option: str) -> Iterator[str]:
    if option.strip():
        yield option.strip()


def bind_attributes(flags: Sequence[str], *, read_only: bool) -> tuple[int, int]:
    """Give the attributes of mount_setattr(2) to add and to remove for these options of a bind mount.

    Options that a bind mount cannot have are the filesystem's own, and nothing here.
    """
    add = remove = 0
    for option in options(flags):
        added, removed = _BIND_FLAGS.get(option, (0, 0))
        add, remove = add & ~removed | added, remove & ~added | removed
    return (add | _linux.MOUNT_ATTR_RDONLY if read_only else add), remove
