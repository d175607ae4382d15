"""What a start does with the LVs that a crash left half made, half removed or half copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.backends.lvm.tags import Kind, State
from katacsi.errors import KatacsiError

if TYPE_CHECKING:
    from katacsi.backends.lvm.objects import Entry, Index, LvmObjects

log = structlog.get_logger(__name__)


async def sweep(objects: LvmObjects) -> tuple[list[Entry], list[Entry]]:
    """Mend and remove what a crash left; give the cuts to go on with, and the removals to finish."""
    _, index = await objects.look()
    await _mend_devices(objects, index)
    unfinished: list[Entry] = []
    dying: list[Entry] = []
    for entry in index.entries.values():
        if entry.record.state is State.DELETING:
            dying.append(entry)
        elif entry.record.kind is Kind.SNAPSHOT_CUT and entry.lv.origin and not _copied(index, entry):
            unfinished.append(entry)
    # Copies before cuts, so that nothing is ever half a copy of something that is gone.
    rubbish = [entry for entry in index.entries.values() if _is_rubbish(index, entry)]
    for entry in sorted(rubbish, key=lambda entry: entry.record.kind in {Kind.VOLUME_CUT, Kind.SNAPSHOT_CUT}):
        try:
            await objects.remove(entry.lv)
        except KatacsiError as error:
            log.warning("an LV that a crash left stays", lv=entry.lv.name, why=error.message)
        else:
            log.info("removed what a crash left", kind=entry.record.kind.value, lv=entry.lv.name)
    return unfinished, dying


async def _mend_devices(objects: LvmObjects, index: Index) -> None:
    """Let volumes go on whose devices a killed LVM left suspended: a pod may be waiting for its bytes."""
    for entry in index.entries.values():
        if entry.record.kind is Kind.VOLUME and entry.record.state is State.READY:
            try:
                await objects.devices.mend(entry.lv)
            except KatacsiError as error:
                log.warning("a device stays as it is", lv=entry.lv.name, why=error.message)


def _is_rubbish(index: Index, entry: Entry) -> bool:
    kind, state = entry.record.kind, entry.record.state
    if kind is Kind.SNAPSHOT_CUT:
        return not entry.lv.origin or _copied(index, entry)
    if kind in {Kind.VOLUME_CUT, Kind.GROWTH}:
        return True
    if kind is Kind.SNAPSHOT and state is State.CREATING:
        cut = index.entries.get((Kind.SNAPSHOT_CUT, entry.record.name))
        return cut is None or not cut.lv.origin
    return state is State.CREATING


def _copied(index: Index, cut: Entry) -> bool:
    """Whether the bytes of a cut are whole in a snapshot of their own."""
    copy = index.entries.get((Kind.SNAPSHOT, cut.record.name))
    return copy is not None and copy.record.state is not State.CREATING
