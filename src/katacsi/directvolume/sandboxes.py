"""Which sandboxes use a target, and which of them are alive.

The Go shim leaves an empty file, named by the sandbox id, beside the record of each volume it uses, and never
removes it: after a sandbox was made anew for the same pod there are two. Kata's own lookup takes the first
and may meet the dead one; here every id is tried. runtime-rs leaves nothing, so the containers' bundles are
read as well. Source: kata-containers, runtime/pkg/direct-volume/utils.go; the sockets' places are those of
runtime/pkg/containerd-shim-v2/shim_management.go and libs/shim-interface/src/lib.rs.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import structlog

from katacsi.directvolume import bundles
from katacsi.directvolume.names import RECORD_FILE, target_entry_name
from katacsi.directvolume.shim import Dialect, Sandbox
from katacsi.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = structlog.get_logger(__name__)

_SOCKET = "shim-monitor.sock"

#: Where a guest of runtime-rs has what lies in `<sandbox>/rw/passthrough` on the host
#: (resource/src/share_fs/mod.rs, utils.rs).
_GUEST_SHARED = "/run/kata-containers/shared/containers/passthrough"

#: A container that restarts leaves a folder each time; the newest are looked at.
_MOST_GUEST_PATHS = 8


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was found out about a target.

    Attributes:
        live: the sandboxes that use it and whose shim accepts a connection.
        doubts: what could not be read, so that there may be more; none are no proof either, since a runtime's
            bundles may not be shown to us.
    """

    live: tuple[Sandbox, ...]
    doubts: tuple[str, ...] = ()


class Sandboxes:
    """Finds the live sandboxes of a target.

    Args:
        root: the root of the records.
        go_sockets: where Go shims have a folder per sandbox.
        rust_sockets: where runtime-rs shims have theirs.
        shared: where runtime-rs has a folder per sandbox for what it shares with the guest.
        places: where container runtimes keep their bundles, as in `bundles.STOCK_PLACES`.
    """

    def __init__(
        self,
        root: Path,
        *,
        go_sockets: Path = Path("/run/vc/sbs"),
        rust_sockets: Path = Path("/run/kata"),
        shared: Path = Path("/run/kata-containers/shared/sandboxes"),
        places: Sequence[str] = bundles.STOCK_PLACES,
    ) -> None:
        self._root = root
        self._folders = {Dialect.GO: go_sockets, Dialect.RUST: rust_sockets}
        self._shared = shared
        self._places = places

    def live(self, target: str) -> list[Sandbox]:
        """List the live sandboxes that use a target, as far as they can be known; see `sighted`."""
        return list(self.sighted(target).live)

    def sighted(self, target: str) -> Sighting:
        """Look who uses a target: by id files beside its record, by bundles, and by who listens.

        Raises:
            HostError: the record's folder is there and cannot be read.
        """
        known, doubts = self._known(target)
        if doubts:
            log.warning("not all containers can be looked at", target=target, doubts=doubts)
        return Sighting(tuple(sandbox for sandbox in known if _accepts(sandbox.socket)), doubts)

    def _known(self, target: str) -> tuple[list[Sandbox], tuple[str, ...]]:
        ids = sandbox_ids(self._root, target)
        found = bundles.mounts_beside(self._places, target)
        known = [
            Sandbox(sandbox_id, dialect, folder / sandbox_id / _SOCKET)
            for sandbox_id in dict.fromkeys((*ids, *found.sandboxes_of(target)))
            for dialect, folder in self._folders.items()
        ]
        return [self._with_guest_paths(sandbox, target, found) for sandbox in known], found.unread

    def _with_guest_paths(self, sandbox: Sandbox, target: str, found: bundles.Found) -> Sandbox:
        if sandbox.dialect is Dialect.GO or found.unread:
            return sandbox
        names = _names_of(target, [mount for mount in found.mounts if mount.sandbox == sandbox.id])
        folder = self._shared / sandbox.id / "rw" / "passthrough"
        paths = tuple(f"{_GUEST_SHARED}/{name}" for name in _folders_for(folder, names))
        return Sandbox(sandbox.id, sandbox.dialect, sandbox.socket, paths)


def _accepts(path: Path) -> bool:
    """Whether a shim listens; in doubt (a full backlog) it does. The kernel accepts without its help."""
    if not path.is_socket():
        return False
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            connection.connect(os.fspath(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True
    return True


def sandbox_ids(root: Path, target: str) -> list[str]:
    """List the sandbox ids that Go shims have left beside a target's record, dead ones too.

    Raises:
        HostError: the folder is there and cannot be read.
    """
    entry = root / target_entry_name(target)
    try:
        return sorted(path.name for path in entry.iterdir() if path.name != RECORD_FILE)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError(f"{entry}: the record's folder cannot be read: {error.strerror}; retry") from error


# -- where a guest of runtime-rs has a volume ----------------------------------------------------------


def _names_of(target: str, mounts: Sequence[bundles.Mount]) -> list[str]:
    """Give the last names of the container paths that have this target mounted, and nothing else.

    runtime-rs names its folders after them; where another volume of the sandbox ends in the same name, a
    folder may be either's.
    """
    sources: dict[str, set[str]] = {}
    for mount in mounts:
        sources.setdefault(PurePosixPath(mount.destination).name, set()).add(mount.source)
    return [name for name, of in sources.items() if of == {target}]


def _folders_for(folder: Path, names: Sequence[str]) -> list[str]:
    """List the folders that may be a block device's mount points for these names, the newest first.

    They are `<10 of the device id's 16 hex digits>-<8 random ones>-<name>`; what virtio-fs shares begins with
    "sandbox-" (resource/src/volume/utils.rs, generate_shared_path(); share_fs_volume.rs,
    generate_mount_path()).
    """
    if not names:
        return []
    ending = "|".join(re.escape(name) for name in names)
    pattern = re.compile(rf"[0-9a-f]{{10}}-[0-9a-f]{{8}}-(?:{ending})\Z")
    dated = sorted(_dated(folder, pattern), reverse=True)
    return [name for _, name in dated[:_MOST_GUEST_PATHS]]


def _dated(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(OSError):  # without the folder nothing is known of the guest, and nothing told
        for path in folder.iterdir():
            if pattern.match(path.name):
                with contextlib.suppress(FileNotFoundError):
                    yield path.stat().st_mtime_ns, path.name
