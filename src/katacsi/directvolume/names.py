"""Where Kata looks for the record of a target path.

Both runtimes encode the OCI mount's source, byte for byte, and look for a folder of that name; nothing is
normalised. Source: kata-containers, runtime/pkg/direct-volume/utils.go and libs/kata-types/src/mount.rs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from katacsi.errors import InvalidRequest

#: The file that holds the record; every other file beside it is taken for a sandbox id.
RECORD_FILE = "mountInfo.json"

#: 189 bytes make a name of 252, 190 one of 256, and NAME_MAX is 255. A longer path is not an error for the
#: Go runtime: it shares the host directory instead, and the data goes to the node's disk.
MAX_TARGET_BYTES = 189

#: Where temporary folders of ours decode to; no pod can have a mount there, so Kata never asks for them.
_TEMPORARY = "/.katacsi-tmp"
#: A target that nobody has, and no record is for.
NO_TARGET = f"{_TEMPORARY}/none"


def entry_name(path: str) -> str:
    """Name the folder of a path's record: URL-safe base64, with padding, of its UTF-8.

    Raises:
        InvalidRequest: the path is empty, which would name the root of all records (Kata's own `Remove("")`
            wipes it), not text, or too long for Kata to find.
    """
    if not path:
        raise InvalidRequest("target_path", "is empty; name the path at which the pod gets the volume")
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("target_path", f"{path!r} is not UTF-8; rename the folder") from error
    if len(encoded) > MAX_TARGET_BYTES:
        raise InvalidRequest(
            "target_path",
            f"{path} has {len(encoded)} bytes and Kata finds records of at most {MAX_TARGET_BYTES}; "
            "use a shorter PersistentVolume name or kubelet root directory",
        )
    return base64.urlsafe_b64encode(encoded).decode()


def target_entry_name(target: str) -> str:
    """Name the folder of a target's record, for targets that can be published.

    Raises:
        InvalidRequest: as `entry_name`, and for paths that are relative, climb with `..` or are the root.
    """
    name = entry_name(target)
    if not target.startswith("/"):
        raise InvalidRequest("target_path", f"{target} is relative; give the absolute path")
    parts = target.split("/")
    if ".." in parts or "\0" in target:
        raise InvalidRequest("target_path", f"{target!r} contains '..' or a NUL; give the path without it")
    if all(part in {"", "."} for part in parts):
        raise InvalidRequest("target_path", f"{target} is the root directory; give a path below it")
    return name


def temporary_entry_name(target: str) -> str:
    """Name a folder in the root for the temporary file of a target's record.

    A record is written elsewhere and renamed into place, since Kata takes any other file in its folder for a
    sandbox id. The only place that is always on the same mount is the root itself (a DaemonSet mounts just
    the root, and rename(2) does not cross mounts). There it has to look like an entry that was released: a
    *folder*, with a name that is base64, without a record. azuredisk's lister, which shares the root, skips
    exactly that, but gives up on a name that is not base64, on a plain file, and on a torn record. Kata
    itself never lists the root; it only looks up paths, and nobody mounts below `/.katacsi-tmp`.

    The name depends on the target alone, so that the next write or removal clears what a crash left.
    """
    return entry_name(f"{_TEMPORARY}/{hashlib.sha256(target.encode()).hexdigest()[:32]}")


def decoded(name: str) -> str | None:
    """Give the path that an entry's name stands for; `None` when nobody following Kata's rules named it."""
    try:
        path = base64.b64decode(name.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        return None
    # One path has one name: base64 with stray bits, or the standard alphabet's "+" and "/", is none.
    return path if path and base64.urlsafe_b64encode(path.encode()).decode() == name else None


def is_temporary(path: str) -> bool:
    """Whether a decoded name is one of our temporary folders."""
    return path.startswith(f"{_TEMPORARY}/")
