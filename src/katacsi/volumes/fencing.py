"""What the controller of a release in the network does: it lets one node have a volume, and grows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from katacsi import tracing
from katacsi.backends.api import Fencing, Growing
from katacsi.errors import NotFound, Precondition, SizeOutOfRange, StillWorking, Unsupported
from katacsi.model import MalformedId, VolumeId
from katacsi.volumes import capabilities, nodes, parameters
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.pools import parse_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import Backend, Volume
    from katacsi.volumes.context import Context
    from katacsi.volumes.requests import ControllerExpand, ControllerPublish

log = structlog.get_logger(__name__)


class VolumeFencing:
    """Access to volumes that any node could reach."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def publish(self, request: ControllerPublish) -> Mapping[str, str]:
        """Let a node, and no other, reach a volume; give what NodeStage needs there.

        Raises:
            NotFound: the volume is proven absent, or there is no such node.
            VolumeInUse: another node has it.
            AlreadyExists: the node has it with other access.
            Precondition: it cannot be used so.
        """
        parsed = parse_id(VolumeId, request.volume_id)
        node = nodes.decoded(request.node_id)
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend = await self._context.pools.backend_of(parsed)
            volume = await self._ready(backend, parsed)
            attributes = parameters.effective(volume.attributes, request.volume_context)
            capabilities.check(request.capability, parameters.asked_for(attributes))
            capabilities.check_kind(volume, request.capability)
            read_only = request.read_only or request.capability.access_mode.read_only
            with tracing.span("fence"):
                context = await _fencing(backend, parsed).publish(parsed, node, read_only=read_only)
        log.debug("volume published to a node", volume=str(parsed), node=node.id, read_only=read_only)
        return context

    async def unpublish(self, volume_id: str, node_id: str) -> None:
        """Fence a node, or every node if it is empty, off a volume; no access is success.

        Raises:
            PoolUnavailable: the storage cannot be asked, so nobody is said to be fenced off.
        """
        try:
            parsed = VolumeId.parse(volume_id)
            node = nodes.decoded(node_id).id if node_id else ""
        except (MalformedId, NotFound):
            return
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend = await self._context.pools.holding(parsed)
            with tracing.span("fence"):
                await _fencing(backend, parsed).unpublish(parsed, node)
        log.debug("node fenced off a volume", volume=str(parsed), node=node or "every node")

    async def expand(self, request: ControllerExpand) -> int:
        """Grow a volume on its storage and give its size in bytes; its node follows by itself.

        Raises:
            NotFound: it is proven absent.
            SizeOutOfRange: it is larger than the limit already.
            Precondition: its filesystem could not follow.
            OutOfSpace: the pool has no room.
        """
        parsed = parse_id(VolumeId, request.volume_id)
        with self._context.locks.hold(volume_lock(parsed.name)):
            backend = await self._context.pools.backend_of(parsed)
            volume = await self._ready(backend, parsed)
            if not isinstance(backend, Growing):
                raise Unsupported(f"pool {parsed.pool}: its volumes cannot grow; make a larger volume")
            if request.size.limit and request.size.limit < volume.size_bytes:
                raise SizeOutOfRange(
                    f"volume {parsed}: has {volume.size_bytes} bytes, more than the limit of "
                    f"{request.size.limit}; volumes never shrink"
                )
            self._check_can_follow(volume, request.size.required)
            return await backend.expand(parsed, max(request.size.required, volume.size_bytes))

    async def _ready(self, backend: Backend, volume_id: VolumeId) -> Volume:
        volume = await self._context.pools.look_up(backend, volume_id)
        if not volume.ready:
            raise StillWorking(f"volume {volume_id}: is still being made; retry")
        return volume

    def _check_can_follow(self, volume: Volume, size_bytes: int) -> None:
        """Refuse what only a host mount could grow and a guest has written, before its storage grows."""
        facts = volume.facts
        if size_bytes <= volume.size_bytes or facts.fs_type in ("", "ext4"):
            return
        if not self._context.settings.may_mount(guest_written=facts.guest_written):
            raise Precondition(
                f"volume {volume.id}: a Kata guest wrote its {facts.fs_type}, which only a host mount could "
                "grow; `guest_filesystems: refuse` rules that out, and nothing was changed. Set "
                "`guest_filesystems: allow`, or move the data to an ext4 volume"
            )


def _fencing(backend: Backend, volume_id: VolumeId) -> Fencing:
    if isinstance(backend, Fencing):
        return backend
    raise Unsupported(
        f"pool {volume_id.pool}: its backend has scope NETWORK without publish and unpublish; use another "
        "version of it"
    )
