"""A volume on this node: its facts, its devices, and what a former call left of it, under its lock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog

from katacsi import tracing
from katacsi.backends.api import UNREMEMBERED, Attachment, Growing, Overcommitting, Scope
from katacsi.errors import KatacsiError, Precondition, StillWorking, Unsupported
from katacsi.host import block
from katacsi.model import VolumeId
from katacsi.volumes.devices import DeviceStack
from katacsi.volumes.locks import volume_lock
from katacsi.volumes.pools import parse_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from katacsi.backends.api import Backend, Device, Facts, Volume
    from katacsi.host.mount import Mount
    from katacsi.volumes.layers import Layer
    from katacsi.volumes.locks import Locks
    from katacsi.volumes.pools import Pools
    from katacsi.volumes.publish.marks import Marks

log = structlog.get_logger(__name__)

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class NodeVolume:
    """One volume while a call works on it; made by `NodeVolumes.opened`, which holds its lock.

    Attributes:
        id: what callers name it by.
        backend: the pool that holds it.
        attachment: how it is attached, as far as this node remembers.
        untouched: this process attached its devices, and has given them to nobody since.
    """

    def __init__(
        self,
        backend: Backend,
        volume: Volume,
        stack: DeviceStack,
        attachment: Attachment,
        secrets: Mapping[str, str],
    ) -> None:
        self.id = volume.id
        self.backend = backend
        self.untouched = False
        self._volume = volume
        self.attachment = attachment
        self._secrets = secrets
        self._stack = stack

    def __str__(self) -> str:
        return f"volume {self.id}"

    # -- what is stored --------------------------------------------------------------------------------

    @property
    def stored(self) -> Volume:
        """The volume as its backend stores it."""
        return self._volume

    @property
    def facts(self) -> Facts:
        """What is stored about its content."""
        return self._volume.facts

    @property
    def size_bytes(self) -> int:
        """Its size, as the backend stores it."""
        return self._volume.size_bytes

    @tracing.phase("store facts")
    async def settle(self, **changes: object) -> None:
        """Change facts durably; the same again costs nothing.

        Raises:
            OperationPending: somebody else changed them meanwhile.
        """
        facts = self.facts.with_(**changes)
        if facts != self.facts:
            await self.backend.compare_and_set_facts(self.id, self.facts, facts)
            self._volume = replace(self._volume, facts=facts)

    # -- its devices -----------------------------------------------------------------------------------

    @property
    def device(self) -> Device:
        """The topmost device: what is formatted, mounted and handed over.

        Raises:
            Precondition: it is not attached.
        """
        return self._required()[-1]

    @property
    def bottom(self) -> Device:
        """The device that the backend gave.

        Raises:
            Precondition: it is not attached.
        """
        return self._required()[0]

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices that it has, bottom first; none as long as nobody attached or looked."""
        return self._stack.devices

    async def attach(self) -> Device:
        """Give it its devices, as it was attached at stage; the same ones, however often."""
        device = await self._stack.attach(self._volume, self._secrets)
        # What had no device cannot be held; what had one may have been given to anybody.
        self.untouched = self.untouched or self.bottom.new
        return device

    async def give_back(self) -> None:
        """Take away what `attaching` made for a call that is refused; what was there before stays."""
        try:
            await self._stack.undo_attach()
        except KatacsiError as error:
            # Nobody waits for it: the next stage finds the device, and a deletion takes it away.
            log.warning("a refused volume keeps its device", volume=str(self.id), error=error.message)

    async def look(self) -> tuple[Device, ...]:
        """Say which devices it has now, without making one."""
        return await self._stack.look()

    async def detach(self) -> None:
        """Take its devices away, proven; absent is success.

        Raises:
            VolumeInUse: somebody still holds one.
        """
        await self._stack.detach()

    @tracing.phase("grow device")
    async def grow(self, size_bytes: int) -> int:
        """Make it at least this large, with the devices that it has, and give its size.

        Raises:
            OutOfSpace: the pool has no room.
            Unsupported: volumes of its pool cannot grow.
            Precondition: its storage is in the network, where the controller has to grow it first.
        """
        if self.backend.scope is Scope.NETWORK:
            if size_bytes > self.size_bytes:
                raise Precondition(
                    f"{self}: has {self.size_bytes} bytes on its storage, and {size_bytes} are asked for; "
                    "call ControllerExpandVolume first"
                )
        elif isinstance(self.backend, Growing):
            # Also where it is as large: the backend finishes a growth that a crash cut short.
            grown = await self.backend.expand(self.id, size_bytes)
            self._volume = replace(self._volume, size_bytes=grown)
        elif size_bytes > self.size_bytes:
            raise Unsupported(f"{self}: volumes of pool {self.id.pool} cannot grow")
        if self.devices:
            await self._stack.refresh(self._volume)
        return self.size_bytes

    async def full(self) -> str:
        """Say what is full where a write to its devices finds no room, and the remedy; else nothing.

        Asked after a tool failed that writes to them: to it, a full pool is a disk with an error.
        """
        return await self.backend.full(self.id) if isinstance(self.backend, Overcommitting) else ""

    def shown_by(self, mount: Mount) -> bool:
        """Whether a mount is of its filesystem; it blocks for a moment, so it is for host steps."""
        return mount.device == block.device_number(self.device.path)

    def _required(self) -> tuple[Device, ...]:
        if not self.devices:
            raise Precondition(f"{self}: is not attached; call NodeStageVolume first")
        return self.devices


class NodeVolumes:
    """Opens volumes for the workflows, one call at a time for each."""

    def __init__(self, pools: Pools, marks: Marks, locks: Locks, layers: Sequence[Layer]) -> None:
        self._pools = pools
        self._marks = marks
        self._locks = locks
        self._layers = layers
        #: Volumes whose devices this process attached and has given to nobody since.
        self._untouched: set[VolumeId] = set()

    @asynccontextmanager
    async def opened(
        self,
        volume_id: str,
        *,
        publish_context: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] = _NONE,
        attaching: bool = False,
    ) -> AsyncIterator[NodeVolume]:
        """Hold a volume's lock and look it up.

        `publish_context` is what the caller got from ControllerPublishVolume; without one the volume is
        attached as it was at stage. `secrets` are those of the call; they are never stored. `attaching` is
        for a caller that will attach it whatever it finds: some backends do both in one step.

        Raises:
            NotFound: not an id of ours, proven absent, or in a pool that is not on this node.
            OperationPending: another call works on it, or it is still being made.
        """
        parsed = parse_id(VolumeId, volume_id)
        with self._locks.hold(volume_lock(parsed.name)):
            backend = await self._pools.backend_of(parsed)
            attachment = self.attachment_of(parsed)
            if publish_context is not None:
                attachment = replace(attachment, publish_context=publish_context)
            stack = DeviceStack(backend, parsed, self._layers, attachment)
            bottom = await stack.begin_attach(secrets) if attaching else None
            stored = (bottom and bottom.volume) or await self._pools.look_up(backend, parsed)
            if not stored.ready:
                await stack.undo_attach()
                raise StillWorking(f"volume {volume_id}: is still being made; retry")
            volume = NodeVolume(backend, stored, stack, attachment, secrets)
            volume.untouched = parsed in self._untouched
            try:
                yield volume
            finally:
                if volume.untouched:
                    self._untouched.add(parsed)
                else:
                    self._untouched.discard(parsed)

    def devices_of(self, backend: Backend, volume_id: VolumeId) -> DeviceStack:
        """Give a volume's devices where it need not exist any more; the caller holds its lock."""
        self._untouched.discard(volume_id)
        return DeviceStack(backend, volume_id, self._layers, self.attachment_of(volume_id))

    def attachment_of(self, volume_id: VolumeId) -> Attachment:
        """Say how a volume was attached at stage, as far as this node remembers."""
        for staged in self._marks.stagings_of(str(volume_id)):
            device = Path(staged.devices[0]) if staged.devices else None
            return Attachment(device, staged.publish_context)
        return UNREMEMBERED
