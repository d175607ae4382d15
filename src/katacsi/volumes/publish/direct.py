"""Publishing to a Kata guest: a read-only guard at the target, and the record that names the device.

The guard is what kubelet sees as the mount, and our proof of ownership; if Kata ever misses the record, the
pod meets a read-only filesystem instead of writing to the node's disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from katacsi.directvolume import guard, names
from katacsi.directvolume.record import DirectVolumeRecord, clean_options
from katacsi.errors import KatacsiError, Precondition, VolumeInUse
from katacsi.host import block, holders, mount
from katacsi.host.offloop import off_loop
from katacsi.host.rootgroup import ensure_root_group, has_root_group
from katacsi.volumes import capabilities
from katacsi.volumes.formatting import set_facts
from katacsi.volumes.undo import Undo

if TYPE_CHECKING:
    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.volumes.growing import Growing
    from katacsi.volumes.publish.marks import Marks
    from katacsi.volumes.publish.route import Job

log = structlog.get_logger(__name__)


class DirectRoute:
    """The device goes to the guest, which mounts it itself."""

    def __init__(self, marks: Marks, writer: DirectVolumeWriter, growing: Growing) -> None:
        self._marks = marks
        self._writer = writer
        self._growing = growing

    def check(self, job: Job) -> None:
        """Refuse a second target, a path Kata could not look up, and what the guest could not mount."""
        names.target_entry_name(job.published.path)
        if job.published.fs_type not in capabilities.DIRECT_FILESYSTEMS:
            raise Precondition(
                f"volume {job.volume.id}: holds {job.published.fs_type}, which Kata's guest kernel lacks; "
                "a direct volume "
                f"takes {' or '.join(capabilities.DIRECT_FILESYSTEMS)}"
            )
        for other in self._marks.targets_of(str(job.volume.id)):
            if other.path != job.published.path:
                raise VolumeInUse(
                    f"volume {job.volume.id}: is published at {other.path}, and one device serves one "
                    "guest; unpublish it "
                    "there first, or use ReadWriteOncePod"
                )

    async def ensure(self, job: Job, undo: Undo) -> None:
        """Take the device off the host, mark it as the guest's, set the guard, write the record."""
        record = record_of(job)
        if await self._is_handed_over(job, record):
            return
        await off_loop(_take_off_host, job)
        if job.volume.facts.pending_size:
            job = replace(job, volume=await self._growing.tolerant(job.backend, job.volume, job.device))
        if record.fs_group is not None:
            await _give_root_to_group(job, record.fs_group)
        await self._hand_over(job, record, undo)

    async def ensure_again(self, job: Job) -> None:
        """Do as `ensure` for a guest that may have the device already: its filesystem is not looked at."""
        record = record_of(job)
        if not await self._is_handed_over(job, record):
            await off_loop(_take_off_host, job)
            await self._hand_over(job, record, Undo())

    async def _is_handed_over(self, job: Job, record: DirectVolumeRecord) -> bool:
        guarded = await off_loop(guard.guard_of, job.published.path)
        return guarded == job.published.volume_id and await self._writer.holds(job.published.path, record)

    async def _hand_over(self, job: Job, record: DirectVolumeRecord, undo: Undo) -> None:
        volume = job.volume
        if not job.published.read_only:
            await set_facts(job.backend, volume, volume.facts.with_(guest_written=True))
        undo.add(f"guard at {job.target}", lambda: self._withdraw(job))
        await off_loop(guard.ensure_guard, job.published.path, job.published.volume_id)
        undo.add(f"record of {job.target}", lambda: self._withdraw_record(job, record))
        await self._writer.add(job.published.path, record)

    async def _withdraw_record(self, job: Job, record: DirectVolumeRecord) -> None:
        # Another record there is why the publish failed, and somebody else's.
        if await self._writer.holds(job.published.path, record):
            await self._writer.remove(job.published.path)

    async def _withdraw(self, job: Job) -> None:
        await off_loop(guard.remove_guard, job.published.path)
        await off_loop(mount.remove_target, job.target)


def record_of(job: Job) -> DirectVolumeRecord:
    """Give the record of a direct publish; nothing but these facts ever reaches it."""
    published = job.published
    flags = list(published.mount_flags)
    if published.fs_type == "xfs" and job.volume.facts.inherited_uuid:
        flags.append("nouuid")  # source and copy may meet in one guest, and xfs refuses a second of its kind
    group = int(published.mount_group) if published.mount_group and not published.read_only else None
    return DirectVolumeRecord(
        device=published.device,
        fs_type=published.fs_type,
        options=clean_options(flags, read_only=published.read_only),
        fs_group=group,
        fs_group_change_policy=job.published.fs_group_change_policy if group else "",
    )


async def _give_root_to_group(job: Job, gid: int) -> None:
    """Let the pod's group write into the volume: runtime-rs does not look at the record's metadata.

    The Go runtime does, and would do more, so a volume that has to stay as it is still goes to its pod.
    """
    device, policy = job.device.path, job.published.fs_group_change_policy
    try:
        if await off_loop(has_root_group, device, gid, policy):
            return
        if held := await off_loop(holders.lasting, device):
            raise VolumeInUse(f"{device}: is held by {held[0]}")
        if await off_loop(ensure_root_group, device, gid, policy):
            log.info("root directory given to the pod's group", volume=str(job.volume.id), group=gid)
    except KatacsiError as error:
        log.warning(
            "the pod's group is left to its runtime, and runtime-rs does not apply it",
            volume=str(job.volume.id),
            group=gid,
            error=error.message,
        )


def _take_off_host(job: Job) -> None:
    """Unmount a staging mount that no target uses any more, and set the device's read-only flag."""
    number = block.device_number(job.device.path)
    for entry in mount.at(job.staging):
        if entry.device != number:
            raise VolumeInUse(
                f"staging_target_path {job.staging}: {entry.source} is mounted there, not volume "
                f"{job.volume.id}"
            )
    mount.unmount(job.staging)
    if left := mount.of_device(number):
        raise VolumeInUse(
            f"volume {job.volume.id}: is mounted on this host at {left[0].target}; a guest cannot have it too"
        )
    block.set_read_only(job.device.path, job.published.read_only)
