"""NodePublish and NodeUnpublish: a volume's route to its pod, and back from the path alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.directvolume import guard
from katacsi.directvolume.record import MAX_TARGET_BYTES, VOLUME_TYPE
from katacsi.errors import (
    AlreadyExists,
    CorruptRecord,
    InvalidRequest,
    KatacsiError,
    Precondition,
    VolumeInUse,
)
from katacsi.host import block, mount, mountoptions, targets
from katacsi.host.offloop import off_loop
from katacsi.model import AccessMode, MalformedId, VolumeId
from katacsi.volumes import capabilities, parameters, paths, unused
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.publish.marks import Published
from katacsi.volumes.publish.mode import Asked, Mode, PodRuntime, decide
from katacsi.volumes.undo import Undo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.api import Device
    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.marks import Staged
    from katacsi.volumes.publish.route import Route
    from katacsi.volumes.requests import Publish
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)


class Publishing:
    """The node's side of handing a volume to a pod."""

    def __init__(self, context: Context, routes: Mapping[Mode, Route]) -> None:
        self._context = context
        self._marks = context.marks
        self._routes = routes

    async def publish(self, request: Publish) -> None:
        """Bring the volume to the target; a repeated call finds it there.

        Raises:
            NotFound: the volume is proven absent.
            Precondition: not staged, in use in a way that rules this out, or not possible for this pod.
            AlreadyExists: the target was published otherwise.
            Unavailable: the pod's runtime matters and cannot be read now.
        """
        paths.check("target_path", request.target_path)
        paths.check("staging_target_path", request.staging_path)
        opened = self._context.volumes.opened(request.volume_id, publish_context=request.publish_context)
        async with opened as volume:
            published = await self._publish(volume, request)
        log.debug(
            "volume published",
            mode=published.mode.value,
            device=published.device,
            target=request.target_path,
        )

    async def _publish(self, volume: NodeVolume, request: Publish) -> Published:
        attributes = parameters.effective(volume.stored.attributes, request.volume_context)
        asked = parameters.asked_for(attributes)
        capabilities.check(request.capability, asked)
        former = self._marks.published(request.target_path)
        wanted = _wanted(request, self._staged(request), attributes)
        _require_same(former, wanted)
        wanted = replace(wanted, mode=former.mode if former else await self._mode(request, asked))
        self._check_neighbours(wanted)
        route = self._routes[wanted.mode]
        route.check(volume, wanted)
        device = await volume.attach(request.secrets)
        published = replace(wanted, device=str(device.path))
        if await off_loop(self._stands, route, volume, published):
            return published
        async with Undo() as undo:
            if former is None:
                undo.add("publish mark", lambda: self._marks.remove(published))
            await off_loop(self._marks.add, published)
            taken_back = undo if former is None else Undo()
            if not await off_loop(self._is_held_by_its_pod, volume, published, former):
                await route.prepare(volume, published, taken_back)
            volume.untouched = False
            await off_loop(route.deliver, volume, published, taken_back)
        return published

    def _is_held_by_its_pod(self, volume: NodeVolume, published: Published, former: Published | None) -> bool:
        """Whether the pod of this very target has the device already; what it has is not looked at.

        Raises:
            VolumeInUse: somebody else has it, whatever marks and records say.
        """
        others = [m for m in self._marks.targets_of(published.volume_id) if m.path != published.path]
        if volume.untouched or others:
            return False
        try:
            unused.require_unheld(volume.id, volume.devices)
        except VolumeInUse:
            if former is None or published.mode is Mode.HOST:
                raise
            return True
        if former is None:
            places = [Path(published.staging), published.target]
            unused.require_unpublished(self._context.writer, volume.id, volume.devices, places)
        return False

    def _stands(self, route: Route, volume: NodeVolume, published: Published) -> bool:
        """Whether nothing is left to do but to remember it: marks may have been lost.

        Raises:
            VolumeInUse: the target shows something else, or holds files that a mount would hide.
        """
        stands = route.stands(volume, published)
        if stands:
            self._marks.add(published)
        elif not mount.at(published.target):
            targets.require_nothing_below(published.target)
        return stands

    async def unpublish(self, volume_id: str, target_path: str) -> None:
        """Take the volume away from the target; absent is success. Data is never touched.

        Works from the path alone: the record goes first, so that no container can start with it, then the
        guard or bind, then the target that publish made, and the fact last, so that a crash is continued.

        Raises:
            VolumeInUse: the mount is busy.
            Precondition: the target was published for another volume.
        """
        paths.check("target_path", target_path)
        try:
            parsed = VolumeId.parse(volume_id)
        except MalformedId:
            return
        with self._context.locks.hold(volume_lock(parsed.name)):
            known = self._marks.published(target_path)
            if known is not None and known.volume_id != volume_id:
                raise Precondition(
                    f"target_path {target_path}: is published for volume {known.volume_id}, not {volume_id}"
                )
            flagged: tuple[Device, ...] = ()
            if known is not None and known.read_only and known.mode is not Mode.HOST:
                flagged = await self._devices_of(parsed)
            await off_loop(self._take_away, volume_id, target_path, known, flagged)
        log.debug("volume unpublished", target=target_path)

    async def _devices_of(self, volume_id: VolumeId) -> tuple[Device, ...]:
        """Say which devices a volume has, as far as that can be known: its pool may be gone by now."""
        try:
            backend = await self._context.pools.holding(volume_id)
            return await self._context.volumes.devices_of(backend, volume_id).look()
        except KatacsiError as error:
            log.warning("the device's read-only flag stays until the next stage", error=error.message)
            return ()

    def _take_away(
        self, volume_id: str, target_path: str, known: Published | None, flagged: Sequence[Device]
    ) -> None:
        is_direct = known.mode is Mode.DIRECT if known else self._is_direct(volume_id, target_path)
        if is_direct:
            self._context.writer.remove(target_path)
        mount.unmount(Path(target_path))
        mount.remove_target(Path(target_path))
        if [item.path for item in self._marks.targets_of(volume_id)] == [target_path]:
            for device in flagged:
                block.set_read_only(device.path, False)
        if known is not None:
            self._marks.remove(known)

    def _is_direct(self, volume_id: str, target_path: str) -> bool:
        """Tell without a fact whether a target was published to a guest: by its guard, else by its record.

        Raises:
            Precondition: the guard is another volume's.
        """
        guarded = guard.guard_of(target_path)
        if guarded is not None:
            if guarded != volume_id:
                raise Precondition(
                    f"target_path {target_path}: is guarded for volume {guarded}, not {volume_id}"
                )
            return True
        if len(target_path.encode(errors="surrogateescape")) > MAX_TARGET_BYTES:
            return False
        try:
            record = self._context.writer.read(target_path)
        except CorruptRecord:
            return True
        return record is not None and record.volume_type == VOLUME_TYPE

    def _staged(self, request: Publish) -> Staged:
        staged = self._marks.staged(request.staging_path)
        if staged is None or staged.volume_id != request.volume_id:
            raise Precondition(
                f"volume {request.volume_id}: is not staged at {request.staging_path}; call "
                "NodeStageVolume first"
            )
        if staged.access_type != request.capability.access_type.value:
            raise InvalidRequest("volume_capability", f"the volume is staged for {staged.access_type} access")
        if request.capability.fs_type not in ("", staged.fs_type):
            raise InvalidRequest(
                "volume_capability.mount.fs_type", f"the volume is staged with {staged.fs_type}"
            )
        return staged

    async def _mode(self, request: Publish, asked: Asked) -> Mode:
        runtime = PodRuntime.NO_CLUSTER
        if asked is not Asked.HOST:
            runtime = await self._context.cluster.pod_runtime(request.volume_context)
        return decide(request.capability.access_type, asked, runtime, volume=f"volume {request.volume_id}")

    def _check_neighbours(self, wanted: Published) -> None:
        """One device cannot serve a guest and the host at once, nor two pods where one was promised."""
        for other in self._marks.targets_of(wanted.volume_id):
            if other.path == wanted.path:
                continue
            if Mode.DIRECT in (other.mode, wanted.mode):
                raise VolumeInUse(
                    f"volume {wanted.volume_id}: is published ({other.mode.value}) at {other.path}, and a "
                    "direct volume has one target; unpublish it there first, or use ReadWriteOncePod"
                )
            if AccessMode.SINGLE_NODE_SINGLE_WRITER.value in (other.access_mode, wanted.access_mode):
                raise VolumeInUse(
                    f"volume {wanted.volume_id}: is published at {other.path}, and its access mode "
                    "SINGLE_NODE_SINGLE_WRITER allows one target"
                )


def _require_same(former: Published | None, wanted: Published) -> None:
    """Refuse another publish at a target that has one.

    Raises:
        AlreadyExists: with what was published there.
    """
    if former is None or replace(wanted, mode=former.mode, device=former.device) == former:
        return
    read_only = " read-only" if former.read_only else ""
    raise AlreadyExists(
        f"target_path {former.path}: volume {former.volume_id} is published there otherwise "
        f"({former.access_type} {former.fs_type} {former.access_mode}{read_only}); unpublish it first"
    )


def _wanted(request: Publish, staged: Staged, attributes: Mapping[str, str]) -> Published:
    capability = request.capability
    flags = tuple(mountoptions.options(capability.mount_flags))
    return Published(
        path=request.target_path,
        volume_id=request.volume_id,
        mode=Mode.HOST,  # until it is decided
        access_type=capability.access_type.value,
        access_mode=capability.access_mode.value,
        fs_type=staged.fs_type,
        mount_flags=tuple(option for option in flags if option not in {"ro", "rw"}),
        read_only=request.read_only or capability.access_mode.read_only or "ro" in flags,
        mount_group=capability.mount_group,
        fs_group_change_policy=parameters.fs_group_change_policy(attributes),
        device="",
        staging=request.staging_path,
    )
