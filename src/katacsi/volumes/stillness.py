"""Holding a volume's bytes still while they are copied: by freezes of ours, thawed once, and by no other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.backends.api import features_of
from katacsi.errors import HostError, VolumeInUse
from katacsi.host import mount
from katacsi.host.offloop import off_loop
from katacsi.volumes import unused
from katacsi.volumes.publish.mark import Frozen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.api import Backend
    from katacsi.model import VolumeId
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.marks import Marks

log = structlog.get_logger(__name__)

#: A frozen filesystem stops its pod; a copy that takes longer is given up. Reflinks take milliseconds.
FREEZE_LIMIT_S = 20.0


class Stillness:
    """The freezes of one copy, and whether they held until it was done.

    A filesystem that somebody else has frozen is still as well; that freeze is not ours to take back. What is
    ours is marked before, so that a start after a crash thaws it, and nothing else.
    """

    def __init__(self, marks: Marks) -> None:
        self.broken = False
        self._marks = marks
        self._frozen: list[Frozen] = []

    def freeze(self, path: str, volume_id: str) -> None:
        """Freeze the filesystem that is mounted at a path, if one is; it blocks."""
        if not mount.at(Path(path)):
            return
        own = Frozen(path, volume_id)
        self._marks.add(own)
        try:
            frozen = mount.freeze(Path(path))
        except BaseException:
            self._marks.remove(own)
            raise
        if frozen:
            self._frozen.append(own)
        else:
            self._marks.remove(own)

    def thaw(self) -> None:
        """Take our freezes back, each once; it blocks."""
        while self._frozen:
            thaw(self._marks, self._frozen.pop())

    async def give_up_in_time(self) -> None:
        """Thaw after a while: a pod must not stand still for longer, even if the copy is lost."""
        await asyncio.sleep(FREEZE_LIMIT_S)
        if self._frozen:
            self.broken = True
            log.error("a freeze took too long; thawing", limit_s=FREEZE_LIMIT_S, path=self._frozen[0].path)
            await off_loop(self.thaw)

    @staticmethod
    def error(what: str) -> HostError:
        """The error of a copy whose source moved meanwhile."""
        return HostError(
            f"{what}: copying took more than {FREEZE_LIMIT_S:g} s with the filesystem frozen; the copy was "
            "removed"
        )


@asynccontextmanager
async def still(context: Context, backend: Backend, volume_id: VolumeId) -> AsyncIterator[Stillness]:
    """Hold a volume's bytes still: freeze its host mount, or make sure that nobody writes.

    A volume that a guest or a raw-device workload writes is copied as of one moment by a pool with atomic
    copies (the filesystem in it replays its journal, as after a power cut).

    Raises:
        VolumeInUse: it is published, and this pool's copies are not of one moment.
    """
    targets = context.marks.targets_of(str(volume_id))
    places = [staged.path for staged in context.marks.stagings_of(str(volume_id))]
    features = features_of(backend)
    if not features.atomic_copies:
        if targets:
            raise VolumeInUse(
                f"volume {volume_id}: is published at {targets[0].path}, and a copy in this pool is not of "
                "one moment; stop the pod first, or keep the pool on XFS or btrfs (reflinks)"
            )
        if devices := await context.volumes.devices_of(backend, volume_id).look():
            staged_at = [Path(place) for place in places]
            await off_loop(unused.require_unpublished, context.writer, volume_id, devices, staged_at)
    stillness = Stillness(context.marks)
    watch: asyncio.Task[None] | None = None
    try:
        for place in () if features.freezes else places:
            await off_loop(stillness.freeze, place, str(volume_id))
        # Without a target nobody waits for the thaw, however long the copy takes. The clock starts with the
        # freeze, which on a busy disk takes a while itself.
        if targets:
            watch = asyncio.create_task(stillness.give_up_in_time())
        yield stillness
    finally:
        if watch is not None:
            watch.cancel()
        await off_loop(stillness.thaw)


def thaw(marks: Marks, frozen: Frozen) -> None:
    """Take a freeze of ours back and forget it; it blocks."""
    if mount.at(Path(frozen.path)):
        mount.thaw(Path(frozen.path))
    marks.remove(frozen)
