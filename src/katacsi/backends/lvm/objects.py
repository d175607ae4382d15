"""What is in a volume group of ours, by the tags on it; and the few ways in which one LV is changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.lvm import tags
from katacsi.backends.lvm.contents import LvmContents
from katacsi.backends.lvm.layout import Layout
from katacsi.backends.lvm.space import LvmSpace
from katacsi.backends.lvm.tags import Kind, Record, State
from katacsi.errors import (
    AlreadyExists,
    CorruptRecord,
    HostError,
    NotFound,
    OutOfSpace,
)
from katacsi.model import VolumeId

if TYPE_CHECKING:
    from katacsi.backends.lvm.devices import LvmDevices
    from katacsi.backends.lvm.group import VolumeGroup
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings

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
        self.group = group
        self.devices = devices
        self.space = LvmSpace(settings, group, devices)
        self.contents = LvmContents(settings, devices, group.stopping)

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
                f"{self.group.path(entry.lv.name)}: its tag {tags.PREFIX}layout cannot be used ({error}); "
                "mend it by lvchange --deltag and --addtag"
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
                f"{self.group.path(name)}: exists, and is not pool {self.group.pool!r}'s; lvrename it, or "
                "choose another name"
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


def _adding(new: frozenset[str]) -> list[str]:
    return [word for tag in sorted(new) for word in ("--addtag", tag)]


def missing(kind: str, identity: object, state: Group) -> NotFound:
    """Give the error of what a whole report does not list."""
    return NotFound(f"{kind} {identity}: there is none in volume group {state.name}")
