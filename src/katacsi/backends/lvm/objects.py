"""What is in a volume group of ours, by the tags on it; and the few ways in which one LV is changed."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from katacsi.backends.api import Capacity
from katacsi.backends.lvm import capacity, tags
from katacsi.backends.lvm.layout import Layout
from katacsi.backends.lvm.settings import Wipe, Zero
from katacsi.backends.lvm.tags import Kind, Record, State
from katacsi.errors import (
    AlreadyExists,
    CorruptRecord,
    HostError,
    NotFound,
    OutOfSpace,
    PoolUnavailable,
)
from katacsi.host import block, command, devicebytes
from katacsi.host.offloop import off_loop
from katacsi.model import MIB, VolumeId

if TYPE_CHECKING:
    from katacsi.backends.api import Device
    from katacsi.backends.lvm.devices import LvmDevices
    from katacsi.backends.lvm.group import VolumeGroup
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings

#: Bytes that one step in a thread zeroes, copies or discards: a stop waits for no more than this.
STEP: Final = 64 * MIB
_EDGE: Final = MIB

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An LV of this pool, and what its tags say."""

    lv: Lv
    record: Record


@dataclass(slots=True)
class Index:
    """The LVs of this pool by kind and storage name."""

    entries: dict[tuple[Kind, str], Entry] = field(default_factory=dict)
    #: By the name of the LV: what is ours and cannot be understood.
    broken: dict[str, CorruptRecord] = field(default_factory=dict)

    def get(self, kind: Kind, name: str, lv_name: str) -> Entry | None:
        """Give the LV of this kind and storage name; None: the report, which is whole, has none.

        Raises:
            CorruptRecord: there is one, but its tags cannot be used.
        """
        entry = self.entries.get((kind, name))
        if entry is None or entry.lv.name in self.broken:
            broken = self.broken.get(entry.lv.name if entry else lv_name)
            if broken is not None:
                raise broken
        return entry


class LvmObjects:
    """The LVs of one pool."""

    def __init__(self, settings: LvmSettings, group: VolumeGroup, devices: LvmDevices) -> None:
        self._settings = settings
        self.group = group
        self.devices = devices

    def index(self, state: Group) -> Index:
        """Sort the LVs of a group; those of other pools and of strangers are left out."""
        index = Index()
        for lv in state.lvs.values():
            try:
                record = tags.parse(lv.tags, self.group.path(lv.name))
            except CorruptRecord as error:
                index.broken[lv.name] = error
                continue
            if record is None or (record.driver, record.pool) != (self.group.driver, self.group.pool):
                continue
            key = (record.kind, record.name)
            if (other := index.entries.setdefault(key, Entry(lv, record))).lv is not lv:
                twice = CorruptRecord(
                    f"{self.group.path(lv.name)} and {other.lv.name} both say that they are "
                    f"{record.csi_name!r}; lvchange --deltag the {tags.PREFIX} tags of the wrong one"
                )
                index.broken[other.lv.name] = index.broken[lv.name] = twice
        return index

    async def look(self) -> tuple[Group, Index]:
        """Give the group as it is, sorted."""
        state = await self.group.read()
        return state, self.index(state)

    def layout(self, entry: Entry) -> Layout:
        """Say how an LV lies on the disks.

        Raises:
            CorruptRecord: its tags do not say.
        """
        try:
            return Layout.of_text(entry.record.layout, entry.record.wipe)
        except ValueError as error:
            raise CorruptRecord(
                f"{self.group.path(entry.lv.name)}: its tag {tags.PREFIX}layout cannot be used "
                f"({error}); mend it by "
                "lvchange --deltag and --addtag"
            ) from error

    def record(self, kind: Kind, state: State, csi_name: str) -> Record:
        """Give the record of a new LV of this pool."""
        return Record(kind, state, self.group.driver, self.group.pool, csi_name, created_at=time.time())

    def copied_record(self, kind: Kind, state: State, csi_name: str, origin: Entry) -> Record:
        """Give the record of an LV that keeps the bytes of a volume as they are now."""
        source = str(VolumeId(self.group.pool, self.group.uid, origin.record.name))
        was = origin.record
        new = self.record(kind, state, csi_name)
        return replace(new, source=source, facts=was.facts, wipe=was.wipe, layout=was.layout)

    # -- room ------------------------------------------------------------------------------------------

    async def capacity(self, state: Group, layout: Layout) -> Capacity:
        """Say what can still be given to volumes of a layout.

        Raises:
            PoolUnavailable: the thin pool is absent or unfit.
        """
        if await off_loop(_read_only_disks, state):
            return Capacity(0, 0, state.extent_size * layout.stripes)
        if not layout.thin:
            return capacity.thick(state, layout, self._settings.reserve)
        pool = self.thin_pool(state, layout.thin_pool)
        return capacity.thin(state, pool, await self.devices.pool_usage(pool), self._settings)

    def thin_pool(self, state: Group, name: str) -> Lv:
        """Find a thin pool.

        Raises:
            PoolUnavailable: there is none of this name, or it would show former tenants' bytes.
        """
        pool = state.lvs.get(name)
        if pool is None or pool.segment_type != "thin-pool":
            raise PoolUnavailable(
                f"pool {self.group.pool!r}: volume group {state.name} has no thin pool {name!r}; make it: "
                f"lvcreate --type thin-pool -L SIZE -n {name} {state.name}"
            )
        if not pool.zeroes:
            raise PoolUnavailable(
                f"pool {self.group.pool!r}: thin pool {self.group.path(name)} does not zero new blocks, "
                "so volumes "
                f"would show what former ones held; lvchange -Zy {self.group.path(name)}"
            )
        return pool

    async def check_room(self, state: Group, layout: Layout, wanted: int) -> None:
        """Refuse what cannot be had.

        Raises:
            OutOfSpace: disks are missing, read-only or too few, or there is too little room on them.
        """
        if lack := capacity.missing_disks(state) or await off_loop(_read_only_disks, state):
            raise OutOfSpace(f"pool {self.group.pool!r}: {lack}")
        if not layout.thin and (lack := capacity.too_few_disks(state, layout)):
            raise OutOfSpace(f"pool {self.group.pool!r}: {lack}; add disks (vgextend), or ask for fewer")
        room = await self.capacity(state, layout)
        if wanted > room.available_bytes:
            why = ""
            if layout.thin:
                usage = await self.devices.pool_usage(self.thin_pool(state, layout.thin_pool))
                why = usage.over_limit(self._settings) if usage else ""
            reason = capacity.refusal(state, layout, wanted, room, self.group.pool)
            raise OutOfSpace(f"{reason} ({why})" if why else reason)

    async def full(self, state: Group, lv: Lv) -> str:
        """Say that an LV's thin pool is full, and the remedy; empty: it is not, or it has none."""
        pool = state.lvs.get(lv.pool)
        usage = await self.devices.pool_usage(pool) if pool is not None else None
        if pool is None or usage is None or not usage.is_full:
            return ""
        path = self.group.path(pool.name)
        return (
            f"pool {self.group.pool!r}: thin pool {path} is full ({usage.data_percent:.1f} % of its data and "
            f"{usage.metadata_percent:.1f} % of its metadata are used); delete volumes or snapshots, or "
            f"enlarge it (lvextend {path})"
        )

    # -- one LV ----------------------------------------------------------------------------------------

    async def make(self, state: Group, name: str, layout: Layout, extents: int, record: Record) -> Entry:
        """Make an LV with its tags, in one commit. Thick ones are active then, thin ones are not.

        Raises:
            AlreadyExists: the LV's name is taken by something that is not this pool's.
        """
        self.check_free(state, name)
        words = ["lvcreate", "--yes", "--name", name, "--setactivationskip", "y", *_adding(record.tags())]
        if layout.thin:
            size = f"{extents * state.extent_size}b"
            words += [
                "--type",
                "thin",
                "--virtualsize",
                size,
                "--thinpool",
                layout.thin_pool,
                "--activate",
                "n",
            ]
        else:
            # Zeroing and wiping LVM's way would clear its first 4 KiB; what follows is ours to zero.
            words += [*layout.arguments(), "--extents", str(extents), "--zero", "n", "--wipesignatures", "n"]
            words += ["--activate", "y", "-K"]
        await self.group.run(*words, self.group.name)
        return await self.expect(name)

    async def cut(self, state: Group, name: str, origin: Lv, record: Record) -> Entry:
        """Make a snapshot of an LV as it is now, with its tags, in one commit."""
        self.check_free(state, name)
        words = ["lvcreate", "--yes", "--snapshot", "--name", name, "--setactivationskip", "y"]
        words += _adding(record.tags())
        if origin.pool:
            words += ["--activate", "n", "--permission", "rw" if record.kind is Kind.VOLUME else "r"]
        else:
            # As large as it can become, so that no write to the origin can spoil it.
            words += ["--extents", "100%ORIGIN"]
        await self.group.run(*words, self.group.path(origin.name))
        return await self.expect(name)

    def check_free(self, state: Group, name: str) -> None:
        """Refuse a name that somebody else's LV has.

        Raises:
            AlreadyExists: with what to do.
        """
        if name in state.lvs:
            raise AlreadyExists(
                f"{self.group.path(name)}: exists, and is not pool {self.group.pool!r}'s; lvrename it, "
                "or choose "
                "another name"
            )

    async def expect(self, name: str) -> Entry:
        """Give an LV that LVM said it made."""
        _, index = await self.look()
        for entry in index.entries.values():
            if entry.lv.name == name:
                return entry
        raise HostError(f"{self.group.path(name)}: LVM said that it made it, but does not list it")

    async def write(self, entry: Entry, record: Record) -> Entry:
        """Replace what is written on an LV, in one commit; tags that katacsi does not know stay."""
        old, new = entry.record.tags(), record.tags()
        lv = entry.lv if old == new else await self.group.change_tags(entry.lv, old - new, new - old)
        return Entry(lv, record)

    async def give_up(self, entry: Entry) -> Entry:
        """Say on an LV that its removal began: whatever crashes now, it is no object any more."""
        dying = entry.record.with_(state=State.DELETING)
        old, new = entry.record.tags(), dying.tags()
        try:
            lv = await self.group.change_tags(entry.lv, old - new, new - old, freeing=True)
        except OutOfSpace:
            # No room for a longer word. After a crash it is removed by whoever asks for it again.
            lv = entry.lv
        return Entry(lv, dying)

    async def remove(self, lv: Lv) -> None:
        """Remove an LV; gone already is success.

        Raises:
            VolumeInUse: somebody has it open.
        """
        await self.devices.check_unused(lv)
        try:
            await self.group.run_freeing("lvremove", "--yes", self.group.path(lv.name))
        except HostError:
            if lv.name not in (await self.group.read()).lvs:
                return
            await self.devices.check_unused(lv)
            raise

    # -- bytes -----------------------------------------------------------------------------------------

    async def zero(self, device: Device, start: int = 0) -> None:
        """Zero a new device from here on, or as much of it as the pool is told to."""
        end = device.size_bytes
        if self._settings.zero is Zero.EDGES:
            for offset in {start, max(start, end - _EDGE)}:
                await off_loop(block.zero_out, device.path, offset, min(_EDGE, end - offset))
            return
        for offset in range(start, end, STEP):
            await off_loop(block.zero_out, device.path, offset, min(STEP, end - offset))

    async def copy(self, source: Device, target: Device, length: int, *, blank: bool) -> None:
        """Copy the first bytes of a device; to a blank one, zeros need not be copied."""
        for offset in range(0, length, STEP):
            await off_loop(
                devicebytes.copy,
                source.path,
                target.path,
                offset,
                min(STEP, length - offset),
                skip_zeros=blank,
            )

    async def wipe(self, entry: Entry) -> None:
        """Do to the bytes of a dying LV what its volume was promised."""
        if entry.record.wipe is Wipe.NONE:
            return
        device = await self.devices.activate(entry.lv)
        if entry.record.wipe is Wipe.SIGNATURES:
            wipe: list[str | Path] = ["wipefs", "--all", "--quiet", device.path]
            await off_loop(command.run, wipe, timeout_s=self._settings.command_timeout)
        elif entry.record.wipe is Wipe.DISCARD and await _discarded(device):
            pass
        elif not entry.lv.pool:
            # A disk that cannot discard any more still forgets what is overwritten.
            for offset in range(0, device.size_bytes, STEP):
                await off_loop(block.zero_out, device.path, offset, min(STEP, device.size_bytes - offset))
        await self.devices.deactivate(entry.lv)


def _read_only_disks(state: Group) -> str:
    """Say that the kernel refuses writes to disks of a group, which LVM then cannot change; else nothing."""
    refusing = []
    for pv in state.pvs:
        with contextlib.suppress(HostError):  # one that cannot be asked, LVM reports as missing
            if not pv.missing and block.is_read_only(Path(pv.name)):
                refusing.append(pv.name)
    if not refusing:
        return ""
    return (
        f"{', '.join(refusing)} of volume group {state.name} refuse writes; look at the kernel's log, and "
        "make them writable (blockdev --setrw) when they are sound"
    )


async def _discarded(device: Device) -> bool:
    for offset in range(0, device.size_bytes, STEP):
        length = min(STEP, device.size_bytes - offset)
        if not await off_loop(devicebytes.discard, device.path, offset, length):
            return False
    return True


def _adding(new: frozenset[str]) -> list[str]:
    return [word for tag in sorted(new) for word in ("--addtag", tag)]


def missing(kind: str, identity: object, state: Group) -> NotFound:
    """Give the error of what a whole report does not list."""
    return NotFound(f"{kind} {identity}: there is none in volume group {state.name}")
