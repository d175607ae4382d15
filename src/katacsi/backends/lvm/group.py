"""The volume group of a pool: found, proven, read once for all who ask, changed one command at a time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm import abandoned, names
from katacsi.backends.tools import refusals
from katacsi.backends.tools.poollock import PoolLock
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from katacsi.backends.api import PoolContext
    from katacsi.backends.lvm.commands import Lvm
    from katacsi.backends.lvm.report import Group, Lv
    from katacsi.backends.lvm.settings import LvmSettings
    from katacsi.model import ObjectId

#: Seconds for which a report is taken for true where nobody here changed anything: of what a person does by
#: hand we learn a moment later, and the pages of a list, or a burst of calls, cost one report.
FRESH_S: Final = 5.0


class VolumeGroup:
    """The volume group of a pool, from `open` to `close`."""

    def __init__(self, settings: LvmSettings, context: PoolContext, lvm: Lvm) -> None:
        self.pool = context.pool
        self.driver = context.driver_name
        self.stopping = context.stopping
        self.name = ""
        self.uuid = ""
        self.uid = ""
        self._settings = settings
        self._read_only = context.read_only
        self._lvm = lvm
        self._lock = PoolLock()
        self._changing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._waiting: asyncio.Task[Group] | None = None
        self._known: Group | None = None
        self._known_since = 0.0
        #: Counts the changes, so that a report which began before one is not taken for later.
        self._changes = 0

    async def open(self) -> None:
        """Find the group and prove that it may be managed; take the pool's lock unless it is only viewed.

        Raises:
            PoolUnavailable: see the message.
        """
        row = self._chosen(await self._lvm.find_groups())
        self.name, self.uuid = row["vg_name"], row["vg_uuid"]
        names.check_group_name(self.name)
        if row["vg_lock_type"] not in {"", "none"}:
            raise self._unavailable(
                f"is shared between hosts ({row['vg_lock_type']}); katacsi manages only groups of one host: "
                "use another one (vgchange --lock-type none makes it one of this host)"
            )
        if row["vg_systemid"]:
            raise self._unavailable(
                f"belongs to the host with system ID {row['vg_systemid']!r}; if that is this host for good, "
                "clear it: vgchange --systemid ''"
            )
        if row["vg_exported"] not in {"", "0"}:
            raise self._unavailable("is exported; vgimport it")
        self.uid = abandoned.pool_uid(self.uuid)
        if not self._read_only:
            await off_loop(self._take_lock)
        try:
            await self.read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.release()

    async def read(self) -> Group:
        """Give the state of the group: true now, or at most a moment ago.

        Raises:
            PoolUnavailable: the group is gone, or another one has its name. Nothing is absent then.
        """
        known = self._known
        if known is not None and time.monotonic() - self._known_since < FRESH_S:
            return known
        if self._waiting is None:
            # Whoever asks before it begins shares it; later ones start the next.
            self._waiting = asyncio.create_task(self._refresh())
            self._waiting.add_done_callback(_seen)
        return await asyncio.shield(self._waiting)

    async def _refresh(self) -> Group:
        async with self._reading:
            self._waiting = None
            changes, begun = self._changes, time.monotonic()
            group = await self._lvm.report(self.name)
            if group is None:
                raise self._unavailable("is gone; was its disk removed, or was it renamed?")
            if group.uuid != self.uuid:
                raise self._unavailable(f"is another one now ({group.uuid}); restart katacsi to use it")
            if changes == self._changes:
                self._known, self._known_since = group, begun
            return group

    @contextlib.asynccontextmanager
    async def changing(self) -> AsyncIterator[Group]:
        """Let one caller at a time change the group; it sees the state that it changes."""
        self.check_writable()
        async with self._changing:
            yield await self.read()

    async def run(self, *words: str) -> None:
        """Run one changing command. For callers within `changing`, or about one LV that nobody else changes.

        Raises:
            OutOfSpace, HostError: as `Lvm.run`; `read` then tells what is the case.
        """
        self.check_writable()
        try:
            await self._lvm.run(*words)
        except OutOfSpace as error:
            raise OutOfSpace(f"pool {self.pool!r} (volume group {self.name}): {error.message}") from error
        finally:
            # Also after a failure: part of it may be done.
            self._changes += 1
            self._known = None

    async def run_freeing(self, *words: str) -> None:
        """Run a command that frees room: a folder without room for backups of the metadata is no hindrance.

        Raises:
            OutOfSpace, HostError: as `Lvm.run`.
        """
        try:
            await self.run(*words)
        except HostError:
            if self._settings.archive_directory is None:
                raise
            await self.run(words[0], "--autobackup", "n", *words[1:])

    async def activate(self, lv_name: str, *, active: bool) -> None:
        """Have an LV's device made or taken away; the metadata, and what is known of it, stay.

        Raises:
            HostError: as `Lvm.run`.
        """
        self.check_writable()
        # -K: our LVs carry the skip flag, so that nothing else in the host activates them.
        words = ("--activate", "y", "-K") if active else ("--activate", "n")
        await self._lvm.run("lvchange", "--yes", *words, self.path(lv_name))

    async def refresh(self, lv_name: str) -> None:
        """Have an active LV's device made anew as the metadata has it; what is known of it stays.

        Raises:
            HostError: as `Lvm.run`.
        """
        self.check_writable()
        await self._lvm.run("lvchange", "--yes", "--refresh", self.path(lv_name))

    async def change_tags(
        self, lv: Lv, removed: Collection[str], added: Collection[str], *, freeing: bool = False
    ) -> Lv:
        """Replace tags of an LV in one commit; give the LV with them.

        `freeing` as for `run_freeing`.

        Raises:
            HostError: as `Lvm.run`.
        """
        known, changes = self._known, self._changes
        words = [word for tag in sorted(removed) for word in ("--deltag", tag)]
        words += [word for tag in sorted(added) for word in ("--addtag", tag)]
        run = self.run_freeing if freeing else self.run
        await run("lvchange", "--yes", *words, self.path(lv.name))
        changed = dataclasses.replace(lv, tags=(lv.tags - frozenset(removed)) | frozenset(added))
        if known is not None and known.lvs.get(lv.name) == lv and self._changes == changes + 1:
            # The command is one commit and nobody else's came between, so no report would say more.
            lvs = {**known.lvs, lv.name: changed}
            self._known = dataclasses.replace(known, seqno=known.seqno + 1, lvs=lvs)
        return changed

    def path(self, lv_name: str) -> str:
        """Give the name by which LVM's commands know an LV."""
        return f"{self.name}/{lv_name}"

    def own(self, object_id: ObjectId) -> str:
        """Give the storage name in an id.

        Raises:
            PoolUnavailable: the id is of another pool, about which nothing can be said here.
        """
        storage, remedy = f"volume group {self.name}", "bring the former disks back"
        refusals.check_own(object_id, self.pool, self.uid, storage=storage, remedy=remedy)
        return object_id.name

    def check_writable(self) -> None:
        """Refuse a change to a pool that is only viewed."""
        refusals.check_writable(self.pool, read_only=self._read_only)

    def _chosen(self, rows: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
        name, tag = self._settings.volume_group, self._settings.volume_group_tag
        wanted = f"name {name}" if name else f"tag {tag}"
        found = [
            row for row in rows if (row["vg_name"] == name if name else tag in row["vg_tags"].split(","))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"{row['vg_name']} ({row['vg_uuid']})" for row in found)
            raise PoolUnavailable(f"pool {self.pool!r}: several volume groups have the {wanted}: {several}")
        known = ", ".join(sorted(row["vg_name"] for row in rows)) or "none"
        raise PoolUnavailable(
            f"pool {self.pool!r}: no volume group has the {wanted}; there are: {known}. Make it with "
            "vgcreate, or bring its disks back; the setting `devices` says which disks are looked at"
        )

    def _take_lock(self) -> None:
        path = self._settings.lock_directory / f"katacsi-{self.uid}-{self.pool}"
        try:
            self._settings.lock_directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(f"cannot be locked by {path}: {error}") from error
        self._lock.take(path, f"pool {self.pool!r}: volume group {self.name}")

    def _unavailable(self, fact: str) -> PoolUnavailable:
        return PoolUnavailable(f"pool {self.pool!r}: volume group {self.name} {fact}")


def _seen(task: asyncio.Task[Group]) -> None:
    """Take note of an error that every caller may have walked away from."""
    if not task.cancelled():
        task.exception()
