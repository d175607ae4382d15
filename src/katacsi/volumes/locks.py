"""One call at a time for each volume or snapshot; a second one is told to retry, never queued."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from katacsi.errors import OperationPending

if TYPE_CHECKING:
    from collections.abc import Iterator


class Locks:
    """Names that are being worked on. Names, not ids: a volume's id is not known before it is created."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def hold(self, *names: str) -> Iterator[None]:
        """Hold all names or none.

        Raises:
            OperationPending: one is held by another call.
        """
        wanted = set(names)
        if taken := wanted & self._held:
            raise OperationPending(f"{min(taken)}: another operation is in progress; retry")
        self._held |= wanted
        try:
            yield
        finally:
            self._held -= wanted


def volume_lock(storage_name: str) -> str:
    """The lock name of a volume."""
    return f"volume {storage_name}"


def snapshot_lock(storage_name: str) -> str:
    """The lock name of a snapshot."""
    return f"snapshot {storage_name}"
