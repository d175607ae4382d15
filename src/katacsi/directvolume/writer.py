"""Writes, reads and removes the records by which Kata finds a pod's direct-assigned volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.directvolume import entries, guests
from katacsi.directvolume import sandboxes as discovery
from katacsi.directvolume.entries import Entry
from katacsi.directvolume.handover import FileHandover
from katacsi.directvolume.names import RECORD_FILE, target_entry_name
from katacsi.directvolume.record import VOLUME_TYPE, DirectVolumeRecord
from katacsi.directvolume.sandboxes import Sandboxes, Sighting
from katacsi.directvolume.shim import GuestStats, ResizeOutcome, Resizing, Sandbox, ShimClient
from katacsi.errors import CorruptRecord, InvalidRequest, NotFound, Unavailable, VolumeInUse
from katacsi.host import files
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.directvolume.handover import Handover

log = structlog.get_logger(__name__)


class DirectVolumeWriter:
    """Keeps the records of this driver's volumes in the root that all of the node's users of Kata share.

    What looks at records or changes them blocks; what asks a guest is a coroutine. Operations on one target
    must not overlap; the caller holds the volume's lock. Everything but a target's
    own folder is left alone: other drivers and Kata itself (for encrypted emptyDirs) keep records here too.

    Args:
        root: the root of the records, on tmpfs; it is made when missing.
        sandboxes: finds live sandboxes; by default at the places of stock Kata.
        shim_client: asks live shims; without one nothing is known from guests.
        handover: who changes the records; by default this process.
    """

    def __init__(
        self,
        root: Path,
        *,
        sandboxes: Sandboxes | None = None,
        shim_client: ShimClient | None = None,
        handover: Handover | None = None,
    ) -> None:
        self._root = root
        self._handover = handover or FileHandover(root)
        self._sandboxes = sandboxes or Sandboxes(root)
        self._shim_client = shim_client

    def add(self, target: str, record: DirectVolumeRecord) -> None:
        """Let Kata find a volume at a target; the same record again changes nothing.

        Sandbox ids beside an older record stay: a record may be replaced while its pod's sandbox is dead.

        Raises:
            InvalidRequest: the target or the record is one that a runtime would misread.
            VolumeInUse: another record is there and a live sandbox uses it.
            ForeignContent: another record is there that is not of our kind.
        """
        _check(record)
        data = record.to_json()
        if not self._handover.ensure_unless_other(target, data):
            return
        if live := self._sandboxes.live(target):
            raise VolumeInUse(
                f"{target}: sandbox {live[0].id} uses another direct-volume record; stop its pod first"
            )
        self._handover.replace(target, data)

    def remove(self, target: str) -> bool:
        """Take a target's record away, with its sandbox ids; return whether there was anything.

        The record is not read: one that is torn goes as well.
        """
        return self._handover.remove(target)

    def holds(self, target: str, record: DirectVolumeRecord) -> bool:
        """Whether Kata finds this record at a target.

        Raises:
            CorruptRecord: there is one that a runtime would refuse, and we cannot have left it so.
        """
        try:
            return self.read(target) == record
        except CorruptRecord:
            if self._handover.tears:
                return False
            raise

    def read(self, target: str) -> DirectVolumeRecord | None:
        """Read a target's record; `None` when there is none.

        Raises:
            CorruptRecord: there is one and a runtime would refuse it.
        """
        return _read(self._root, target)

    def listing(self) -> list[Entry]:
        """List all entries of the root by name; one that nobody can read is listed with its problem."""
        return entries.listing(self._root)

    def sandbox_ids(self, target: str) -> list[str]:
        """List the sandbox ids beside a target's record, dead ones too; one read of a folder on tmpfs."""
        return discovery.sandbox_ids(self._root, target)

    def live(self, target: str) -> list[Sandbox]:
        """List the live sandboxes that use a target; none is no proof that no guest does."""
        return self._sandboxes.live(target)

    def sighted(self, target: str) -> Sighting:
        """Look who uses a target, and say what could not be looked at."""
        return self._sandboxes.sighted(target)

    async def stats(self, target: str) -> GuestStats | None:
        """Ask the guest how full a target's volume is.

        `None` means that nobody could be asked: no record, no live sandbox, or no shim that can tell.
        """
        try:
            return await self.ask_stats(target)
        except (NotFound, Unavailable) as error:
            log.debug("no numbers from a guest", target=target, reason=error.message)
            return None

    async def ask_stats(self, target: str) -> GuestStats:
        """Do as `stats`, and say why when there is no answer.

        Raises:
            NotFound: there is no record.
            Unavailable: no live sandbox is known, or none of their shims can tell.
        """
        if (record := await off_loop(self.read, target)) is None:
            raise NotFound(f"{target}: has no record; see `katacsi direct-volume list`")
        live = await off_loop(self._sandboxes.live, target)
        if self._shim_client is None or not live:
            raise Unavailable(f"{target}: no live sandbox is known to use it; start its pod and retry")
        return await guests.stats(self._shim_client, live, record.device)

    async def notify_resize(self, target: str, size_bytes: int) -> ResizeOutcome:
        """Tell the guest that uses a target's volume that the device has grown to `size_bytes`.

        `DONE` only when every live sandbox says so and no statistic speaks against it. Stock Kata never does
        (`ResizeOutcome.UNSUPPORTED`), and without a shim client none is asked.
        """
        resizing = await self.ask_resize(target, size_bytes)
        if resizing.reasons:
            log.info("a guest was not grown", target=target, reasons=resizing.reasons)
        return resizing.outcome

    async def ask_resize(self, target: str, size_bytes: int) -> Resizing:
        """Do as `notify_resize`, and say why when it is not done."""
        live = await off_loop(self._sandboxes.live, target)
        if not live:
            return Resizing(ResizeOutcome.NO_LIVE_SANDBOX)
        record = await off_loop(self.read, target)
        if record is None or self._shim_client is None:
            return Resizing(ResizeOutcome.UNSUPPORTED)
        return await guests.resize(self._shim_client, live, record.device, size_bytes)


def _check(record: DirectVolumeRecord) -> None:
    """Refuse what only one of the runtimes, or neither, would take."""
    if record.volume_type != VOLUME_TYPE:
        raise InvalidRequest(
            "volume-type", f"{record.volume_type!r} does not work in all Kata runtimes; use {VOLUME_TYPE!r}"
        )
    if not record.device.startswith("/"):
        raise InvalidRequest("device", f"{record.device!r} is no absolute path; name the host's device node")
    if not record.fs_type:
        raise InvalidRequest("fstype", "is empty, and the guest's agent needs one; give ext4 or xfs")
    try:
        record.to_json()
    except UnicodeEncodeError as error:
        raise InvalidRequest("device", f"{record} is not UTF-8; JSON cannot hold it") from error


def _read(root: Path, target: str) -> DirectVolumeRecord | None:
    path = root / target_entry_name(target) / RECORD_FILE
    data = files.read(path)
    return None if data is None else DirectVolumeRecord.from_json(data, path)
