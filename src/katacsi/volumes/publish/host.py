"""Publishing by a host mount: the filesystem at the staging path, a bind of it at each target."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from katacsi import tracing
from katacsi.errors import Precondition, VolumeInUse
from katacsi.host import block, growth, health, mount, ownership, superblock
from katacsi.host.offloop import off_loop
from katacsi.volumes.publish.route import Found

if TYPE_CHECKING:
    from katacsi.settings import Settings
    from katacsi.volumes.growth import Growth
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.undo import Undo
    from katacsi.volumes.volume import NodeVolume


class HostRoute:
    """A normal mount, for pods that do not run in Kata."""

    def __init__(self, settings: Settings, growth: Growth) -> None:
        self._settings = settings
        self._growth = growth

    def check(self, volume: NodeVolume, wanted: Published) -> None:
        """Refuse a filesystem that a guest has written, unless the operator trusts guests."""
        del wanted
        if not self._settings.may_mount(guest_written=volume.facts.guest_written):
            raise Precondition(
                f"{volume}: a Kata guest has written its filesystem, and `guest_filesystems: refuse` keeps "
                "the host kernel from mounting it. Use it in a Kata pod, or set `guest_filesystems: allow`"
            )

    def stands(self, volume: NodeVolume, published: Published) -> bool:
        """Whether the target shows the volume as asked; anything else there is not covered up."""
        mounts = mount.at(published.target)
        for entry in mounts:
            if not volume.shown_by(entry):
                raise VolumeInUse(
                    f"target_path {published.path}: {entry.source} is mounted there, not {volume}"
                )
        if mounts and mounts[-1].read_only is not published.read_only:
            # Between the bind and its read-only remount lies a crash: finish the step.
            mount.remount_bind(published.target, read_only=published.read_only)
        return bool(mounts)

    def clear(self, volume: NodeVolume, published: Published) -> Found:
        """Look whether the device is mounted at the staging path, and if not, which filesystem it has.

        Raises:
            VolumeInUse: something else is mounted there, which is not covered up.
        """
        mounts = mount.at(Path(published.staging))
        for entry in mounts:
            if not volume.shown_by(entry):
                raise VolumeInUse(
                    f"staging_target_path {published.staging}: {entry.source} is mounted there, not {volume}"
                )
        # A growth that was cut off is mended first; what is there now counts for nothing.
        read = not mounts and not volume.facts.growing
        return Found(bool(mounts), superblock.read(volume.device.path) if read else None)

    def needs_preparing(self, volume: NodeVolume, published: Published, found: Found) -> bool:
        """Whether the filesystem does not fill its device, or a growth of it was left."""
        del published
        if found.mounted:
            return False
        facts, filesystem = volume.facts, found.filesystem
        filled = filesystem is not None and growth.fills(filesystem, volume.device.size_bytes)
        return not filled or bool(facts.pending_size or facts.growing)

    @tracing.phase("prepare")
    async def prepare(self, volume: NodeVolume, published: Published, found: Found, undo: Undo) -> None:
        """Make the filesystem as large as its device; what only grows mounted is mounted for that."""
        if found.mounted:
            return
        filesystem = found.filesystem
        await self._growth.before_mount(volume, filesystem)
        if filesystem is None or not growth.fills(filesystem, volume.device.size_bytes):
            await off_loop(_mount, volume, published, undo)
            await self._growth.after_mount(volume, Path(published.staging))

    @tracing.phase("mount")
    def deliver(self, volume: NodeVolume, published: Published, undo: Undo) -> None:
        """Have the filesystem mounted at the staging path, once, give it to the pod's group, and bind it.

        Raises:
            Precondition: the kernel takes no writes to the filesystem any more, and the pod wants to write.
        """
        staging = Path(published.staging)
        if not (mounts := mount.at(staging)):
            _mount(volume, published, undo)
            mounts = mount.at(staging)
        if not published.read_only and (reason := health.why_not_writable(mounts[-1])):
            raise Precondition(
                f"{volume}: {reason}; stop all its pods on this node, and the next one gets it checked and "
                "repaired. See the kernel's log for the cause"
            )
        if published.mount_group and not published.read_only:
            ownership.apply_group(staging, int(published.mount_group), published.fs_group_change_policy)
        undo.add(f"bind at {published.path}", partial(_unbind, published))
        mount.ensure_target_directory(published.target)
        mount.bind(staging, published.target, read_only=published.read_only, flags=published.mount_flags)


def _mount(volume: NodeVolume, published: Published, undo: Undo) -> None:
    staging = Path(published.staging)
    undo.add(f"mount at {staging}", partial(mount.unmount, staging))
    block.set_read_only(volume.device.path, False)
    mount.ensure_target_directory(staging)
    flags = list(published.mount_flags)
    if published.fs_type == "xfs" and volume.facts.inherited_uuid:
        flags.append("nouuid")  # the source may be mounted on this node, and xfs refuses a second of its kind
    mount.mount_filesystem(volume.device.path, staging, published.fs_type, flags)


def _unbind(published: Published) -> None:
    mount.unmount(published.target)
    mount.remove_target(published.target)
