"""NodePublish: which route a volume takes to its pod, once."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from katacsi.errors import (
    AlreadyExists,
    InvalidRequest,
    Precondition,
    VolumeInUse,
)
from katacsi.host import mount, mountoptions, targets
from katacsi.host.offloop import off_loop
from katacsi.model import AccessMode
from katacsi.volumes import capabilities, parameters, paths, unused
from katacsi.volumes.publish.decision import Decision
from katacsi.volumes.publish.mark import Published
from katacsi.volumes.publish.mode import Mode
from katacsi.volumes.undo import Undo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.volumes.context import Context
    from katacsi.volumes.publish.mark import Staged
    from katacsi.volumes.publish.route import Found, Route
    from katacsi.volumes.requests import Publish
    from katacsi.volumes.volume import NodeVolume

log = structlog.get_logger(__name__)


class _Begun(enum.Enum):
    """What a publish finds."""

    DONE = "done"  #: all of it, by a former call or this one
    HELD_BY_ITS_POD = "held by its pod"  #: the pod has the device, and the host lost something of the rest
    TO_PREPARE = "to prepare"  #: nobody has the device, and something has to be done before a pod gets it


class Publishing:
    """The node's side of handing a volume to a pod."""

    def __init__(self, context: Context, routes: Mapping[Mode, Route]) -> None:
        self._context = context
        self._marks = context.marks
        self._routes = routes
        self._decision = Decision(context)

    async def publish(self, request: Publish) -> None:
        """Bring the volume to the target; a repeated call finds it there.

        Raises:
            NotFound: the volume is proven absent.
            Precondition: not staged, in use in a way that rules this out, or not possible for this pod.
            AlreadyExists: the target was published otherwise.
            Unavailable: the pod matters and cannot be read now; nothing was changed, nothing guessed.
        """
        paths.check("target_path", request.target_path)
        paths.check("staging_target_path", request.staging_path)
        staged = self._marks.staged(request.staging_path)
        opened = self._context.volumes.opened(
            request.volume_id,
            publish_context=request.publish_context,
            secrets=request.secrets,
            attaching=staged is not None and staged.volume_id == request.volume_id,
        )
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
        wanted = _as_before(wanted, former) if former else await self._decision.made(wanted, request, asked)
        self._check_neighbours(wanted)
        route = self._routes[wanted.mode]
        route.check(volume, wanted)
        device = await volume.attach()
        published = replace(wanted, device=str(device.path))
        async with Undo() as undo:
            taken_back = undo if former is None else Undo()
            begun, found = await off_loop(self._begin, route, volume, published, former, taken_back)
            if begun is not _Begun.DONE:
                if found is not None:
                    await route.prepare(volume, published, found, taken_back)
                volume.untouched = False
                await off_loop(route.deliver, volume, published, taken_back)
        return published

    def _begin(
        self, route: Route, volume: NodeVolume, published: Published, former: Published | None, undo: Undo
    ) -> tuple[_Begun, Found | None]:
        """Look what is there, remember what is going to be, and clear the way where nobody has the device.

        Where nothing is left to prepare the pod gets it at once: a step for itself would cost more.

        Raises:
            VolumeInUse: the target shows something else, or somebody else has the device.
        """
        if self._stands(route, volume, published):
            return _Begun.DONE, None
        undo.add("publish mark", lambda: self._marks.remove(published))
        self._marks.add(published)
        if self._is_held_by_its_pod(volume, published, former):
            return _Begun.HELD_BY_ITS_POD, None
        found = route.clear(volume, published)
        if route.needs_preparing(volume, published, found):
            return _Begun.TO_PREPARE, found
        volume.untouched = False
        route.deliver(volume, published, undo)
        return _Begun.DONE, None

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
    if former is None or replace(_as_before(wanted, former), device=former.device) == former:
        return
    read_only = " read-only" if former.read_only else ""
    raise AlreadyExists(
        f"target_path {former.path}: volume {former.volume_id} is published there otherwise "
        f"({former.access_type} {former.fs_type} {former.access_mode}{read_only}); unpublish it first"
    )


def _as_before(wanted: Published, former: Published) -> Published:
    """Give what is wanted with what the first publish was told by the cluster, which is not asked again."""
    return replace(wanted, mode=former.mode, fs_group_change_policy=former.fs_group_change_policy)


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
        pod=_pod(request.volume_context),
    )


def _pod(volume_context: Mapping[str, str]) -> str:
    """Name the pod that a publish is for, where CSIDriver's `podInfoOnMount` has the kubelet tell."""
    names = [volume_context.get(f"csi.storage.k8s.io/pod.{key}", "") for key in ("namespace", "name")]
    return "/".join(names) if all(names) else ""
