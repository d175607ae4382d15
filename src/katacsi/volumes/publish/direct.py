"""Publishing to a Kata guest: a read-only guard at the target, and the record that names the device.

The guard is what kubelet sees as the mount, and our proof of ownership; if Kata ever misses the record, the
pod meets a read-only filesystem instead of writing to the node's disk.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.directvolume import guard, names
from katacsi.directvolume.record import DirectVolumeRecord, clean_options
from katacsi.errors import CorruptRecord, KatacsiError, Precondition, VolumeInUse
from katacsi.host import block, mount
from katacsi.host.offloop import off_loop
from katacsi.host.rootgroup import ensure_root_group
from katacsi.volumes import capabilities, soundness, unused
from katacsi.volumes.publish.route import Found

if TYPE_CHECKING:
    from katacsi.directvolume.writer import DirectVolumeWriter
    from katacsi.settings import Settings
    from katacsi.volumes.growth import Growth
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.publish.marks import Marks
    from katacsi.volumes.undo import Undo
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)


class DirectRoute:
    """The device goes to the guest, which mounts it itself."""

    def __init__(self, settings: Settings, marks: Marks, writer: DirectVolumeWriter, growth: Growth) -> None:
        self._marks = marks
        self._writer = writer
        self._growth = growth
        self._timeout_s = settings.timeouts.check

    def check(self, volume: NodeVolume, wanted: Published) -> None:
        """Refuse a second target, a path Kata could not look up, and what the guest could not mount."""
        names.target_entry_name(wanted.path)
        if wanted.fs_type not in capabilities.DIRECT_FILESYSTEMS:
            raise Precondition(
                f"{volume}: holds {wanted.fs_type}, which Kata's guest kernel lacks; a direct volume takes "
                f"{' or '.join(capabilities.DIRECT_FILESYSTEMS)}"
            )
        for other in self._marks.targets_of(wanted.volume_id):
            if other.path != wanted.path:
                raise VolumeInUse(
                    f"{volume}: is published at {other.path}, and one device serves one guest; unpublish it "
                    "there first, or use ReadWriteOncePod"
                )

    def stands(self, volume: NodeVolume, published: Published) -> bool:
        """Whether guard and record are there as asked; a torn record under our guard is ours to mend."""
        if guard.guard_of(published.path) != published.volume_id:
            return False
        try:
            return self._writer.holds(published.path, record_of(volume, published))
        except CorruptRecord:
            return False

    def clear(self, volume: NodeVolume, published: Published) -> Found:
        """Take the device off the host."""
        _take_off_host(volume, published)
        return Found()

    def needs_preparing(self, volume: NodeVolume, published: Published, found: Found) -> bool:
        """Whether a growth was left, the filesystem has to be brought in order, or the fact is missing."""
        del found
        facts = volume.facts
        unfinished = bool(facts.pending_size or facts.growing)
        touched = published.read_only or record_of(volume, published).fs_group is not None
        return unfinished or touched or not facts.guest_written

    @tracing.phase("prepare")
    async def prepare(self, volume: NodeVolume, published: Published, found: Found, undo: Undo) -> None:
        """Finish a growth, and remember that a guest will write."""
        del found, undo
        if volume.facts.pending_size or volume.facts.growing:
            await self._growth.before_publish(volume)
        if published.read_only:
            await off_loop(soundness.ensure_readable, volume, self._timeout_s)
        record = record_of(volume, published)
        if record.fs_group is not None:
            await off_loop(_give_root_to_group, volume, record.fs_group, published)
        if not published.read_only:
            await volume.settle(guest_written=True)

    @tracing.phase("hand over")
    def deliver(self, volume: NodeVolume, published: Published, undo: Undo) -> None:
        """Set the guard, then write the record: whoever finds the record finds the guard, too."""
        record = record_of(volume, published)
        block.set_read_only(volume.device.path, published.read_only)
        undo.add(f"guard at {published.path}", partial(_withdraw_guard, published))
        guard.ensure_guard(published.path, published.volume_id)
        undo.add(f"record of {published.path}", partial(self._withdraw_record, published, record))
        self._writer.add(published.path, record)

    def _withdraw_record(self, published: Published, record: DirectVolumeRecord) -> None:
        # Another record there is why the publish failed, and somebody else's.
        if self._writer.holds(published.path, record):
            self._writer.remove(published.path)


def record_of(volume: NodeVolume, published: Published) -> DirectVolumeRecord:
    """Give the record of a direct publish; nothing but these facts ever reaches it."""
    flags = list(published.mount_flags)
    if published.fs_type == "xfs" and volume.facts.inherited_uuid:
        flags.append("nouuid")  # source and copy may meet in one guest, and xfs refuses a second of its kind
    group = int(published.mount_group) if published.mount_group and not published.read_only else None
    return DirectVolumeRecord(
        device=published.device,
        fs_type=published.fs_type,
        options=clean_options(flags, read_only=published.read_only),
        fs_group=group,
        fs_group_change_policy=published.fs_group_change_policy if group else "",
    )


def _give_root_to_group(volume: NodeVolume, gid: int, published: Published) -> None:
    """Let the pod's group write into the volume: runtime-rs does not look at the record's metadata.

    The Go runtime does, and would do more, so a volume that has to stay as it is still goes to its pod.
    """
    try:
        if ensure_root_group(volume.device.path, gid, published.fs_group_change_policy):
            log.info("root directory given to the pod's group", volume=str(volume.id), group=gid)
    except KatacsiError as error:
        log.warning(
            "the pod's group is left to its runtime, and runtime-rs does not apply it",
            volume=str(volume.id),
            group=gid,
            error=error.message,
        )


def _take_off_host(volume: NodeVolume, published: Published) -> None:
    """Unmount a staging mount that no target uses any more."""
    staging = Path(published.staging)
    for entry in mount.at(staging):
        if not volume.shown_by(entry):
            raise VolumeInUse(f"staging_target_path {staging}: {entry.source} is mounted there, not {volume}")
    mount.unmount(staging)
    for device in volume.devices:
        if left := mount.of_device(block.device_number(device.path)):
            raise VolumeInUse(
                f"{volume}: is mounted on this host at {left[0].target}; a guest cannot have it too"
            )
    if not volume.untouched:
        unused.require_not_mounted_elsewhere(volume.id, volume.devices)


def _withdraw_guard(published: Published) -> None:
    guard.remove_guard(published.path)
    mount.remove_target(published.target)
