"""Publishing by a host mount: the filesystem at the staging path, a bind of it at each target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi.errors import KatacsiError, Precondition, VolumeInUse
from katacsi.host import block, mount, ownership
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from katacsi.volumes.formatting import Formatter
    from katacsi.volumes.growing import Growing
    from katacsi.volumes.publish.route import Job
    from katacsi.volumes.undo import Undo

log = structlog.get_logger(__name__)


class HostRoute:
    """A normal mount, for pods that do not run in Kata."""

    def __init__(self, formatter: Formatter, growing: Growing) -> None:
        self._formatter = formatter
        self._growing = growing

    def check(self, job: Job) -> None:
        """Refuse a filesystem that a guest has written, unless the operator trusts guests."""
        if not self._formatter.may_mount(job.volume.facts):
            raise Precondition(
                f"volume {job.volume.id}: a Kata guest has written its filesystem, and `guest_filesystems: "
                "refuse` keeps "
                "the host kernel from mounting it. Use it in a Kata pod, or set `guest_filesystems: allow`"
            )

    async def ensure(self, job: Job, undo: Undo) -> None:
        """Mount the device once, give it to the pod's group, bind it to the target."""
        if await off_loop(_bound, job):
            return
        if not await off_loop(_staged, job):
            await self._mount(job, undo)
        if job.published.mount_group and not job.published.read_only:
            await off_loop(
                ownership.apply_group,
                job.staging,
                int(job.published.mount_group),
                job.published.fs_group_change_policy,
            )
        undo.add(f"bind at {job.target}", lambda: off_loop(_unbind, job))
        await off_loop(_bind, job)

    async def _mount(self, job: Job, undo: Undo) -> None:
        await self._growing.tolerant(job.backend, job.volume, job.device)
        undo.add(f"mount at {job.staging}", lambda: off_loop(mount.unmount, job.staging))
        await off_loop(_mount, job)
        try:
            await self._growing.mounted(job.backend, job.volume, job.device, job.staging)
        except KatacsiError as error:
            log.warning(
                "filesystem stays smaller than its device", error=error.message, device=str(job.device.path)
            )


def _staged(job: Job) -> bool:
    """Whether the device is mounted at the staging path; anything else there is not covered up."""
    mounts = mount.at(job.staging)
    number = block.device_number(job.device.path)
    for entry in mounts:
        if entry.device != number:
            raise VolumeInUse(
                f"staging_target_path {job.staging}: {entry.source} is mounted there, not volume "
                f"{job.volume.id}"
            )
    return bool(mounts)


def _bound(job: Job) -> bool:
    """Whether the target shows the volume as asked; anything else there is not covered up."""
    mounts = mount.at(job.target)
    if not mounts:
        return False
    number = block.device_number(job.device.path)
    for entry in mounts:
        if entry.device != number:
            raise VolumeInUse(
                f"target_path {job.target}: {entry.source} is mounted there, not volume {job.volume.id}"
            )
    if mounts[-1].read_only is not job.published.read_only:
        # Between the bind and its read-only remount lies a crash: finish the step.
        mount.remount_bind(job.target, read_only=job.published.read_only)
    return True


def _mount(job: Job) -> None:
    block.set_read_only(job.device.path, False)
    mount.ensure_target_directory(job.staging)
    flags = list(job.published.mount_flags)
    if job.published.fs_type == "xfs" and job.volume.facts.inherited_uuid:
        flags.append("nouuid")  # the source may be mounted on this node, and xfs refuses a second of its kind
    mount.mount_filesystem(job.device.path, job.staging, job.published.fs_type, flags)


def _bind(job: Job) -> None:
    mount.ensure_target_directory(job.target)
    mount.bind(job.staging, job.target, read_only=job.published.read_only, flags=job.published.mount_flags)


def _unbind(job: Job) -> None:
    mount.unmount(job.target)
    mount.remove_target(job.target)
