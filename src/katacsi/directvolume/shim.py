"""The Kata shims behind a record: which sandboxes are alive, and what a shim can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from katacsi.directvolume.names import RECORD_FILE, target_entry_name
from katacsi.errors import HostError
from katacsi.host.offloop import off_loop

_SOCKET = "shim-monitor.sock"


class Dialect(enum.Enum):
    """Which runtime a shim belongs to; the two speak differently on the same kind of socket."""

    GO = "go"
    RUST = "rust"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox whose shim answers."""

    id: str
    dialect: Dialect
    socket: Path


@dataclass(frozen=True, slots=True)
class GuestStats:
    """How full a volume is, by the guest's own count."""

    total_bytes: int
    available_bytes: int
    used_bytes: int
    total_inodes: int
    available_inodes: int
    used_inodes: int


class ResizeOutcome(enum.Enum):
    """What came of telling a guest that its volume has grown."""

    #: No sandbox id leads to a live shim. That is no proof that no guest holds the device: runtime-rs writes
    #: no sandbox id at all.
    NO_LIVE_SANDBOX = "no live sandbox"
    #: There is a live sandbox and its runtime cannot resize, as all of stock Kata: the agent of every release
    #: to date answers UNIMPLEMENTED. The guest sees the new size after the pod's next start.
    UNSUPPORTED = "unsupported"
    #: The guest's filesystem has the new size.
    DONE = "done"


class ShimClient(Protocol):
    """What a shim is asked about one device of its sandbox."""

    async def stats(self, sandbox: Sandbox, device: str) -> GuestStats | None:
        """Ask how full the filesystem on a device is; `None` when the shim cannot tell."""

    async def resize(self, sandbox: Sandbox, device: str, size_bytes: int) -> ResizeOutcome:
        """Tell the guest that a device has grown; `DONE` or `UNSUPPORTED`."""


class Sandboxes:
    """Finds the live sandboxes of a target.

    The Go shim leaves an empty file, named by the sandbox id, beside the record of each volume it uses, and
    never removes it: after a sandbox was made anew for the same pod there are two. Kata's own lookup takes
    the first and may meet the dead one; here every id is tried.

    Args:
        root: the root of the records.
        go_sockets: where Go shims have a folder per sandbox.
        rust_sockets: where runtime-rs shims have theirs.
        timeout_s: how long a shim may take to accept a connection.
    """

    def __init__(
        self,
        root: Path,
        *,
        go_sockets: Path = Path("/run/vc/sbs"),
        rust_sockets: Path = Path("/run/kata"),
        timeout_s: float = 3.0,
    ) -> None:
        self._root = root
        self._folders = {Dialect.GO: go_sockets, Dialect.RUST: rust_sockets}
        self._timeout_s = timeout_s

    async def live(self, target: str) -> list[Sandbox]:
        """List the sandboxes that use a target, by their id files, and whose shim accepts a connection."""
        ids = await off_loop(sandbox_ids, self._root, target)
        known = [
            Sandbox(sandbox_id, dialect, folder / sandbox_id / _SOCKET)
            for sandbox_id in ids
            for dialect, folder in self._folders.items()
        ]
        alive = await asyncio.gather(*(self._accepts(sandbox.socket) for sandbox in known))
        return [sandbox for sandbox, lives in zip(known, alive, strict=True) if lives]

    async def _accepts(self, socket: Path) -> bool:
        """Whether a shim listens; in doubt (a full backlog, a slow answer) it does."""
        if not socket.is_socket():
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                _, connection = await asyncio.open_unix_connection(socket)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # TimeoutError too
            return True
        connection.close()
        with contextlib.suppress(OSError):
            await connection.wait_closed()
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
