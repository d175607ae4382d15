"""The devices of one volume on this node: the backend's at the bottom, then a device for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi import tracing
from katacsi.backends.api import Counting, Device
from katacsi.host.offloop import off_loop
from katacsi.volumes import unused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.api import Attachment, Backend, Volume
    from katacsi.model import VolumeId
    from katacsi.volumes.layers import Layer


class DeviceStack:
    """Attaches and grows bottom up, detaches top down.

    Attributes:
        devices: what is attached, bottom first; empty when nothing is, or nobody looked yet.
    """

    def __init__(
        self, backend: Backend, volume_id: VolumeId, layers: Sequence[Layer], attachment: Attachment
    ) -> None:
        self.devices: tuple[Device, ...] = ()
        self._attachment = attachment
        self._backend = backend
        self._id = volume_id
        self._layers = layers
        self._begun: Device | None = None

    @tracing.phase("attach")
    async def begin_attach(self, secrets: Mapping[str, str]) -> Device:
        """Give the backend's device, where the volume is not known yet; `attach` has to follow."""
        self._begun = await self._backend.attach(self._id, self._attachment.publish_context, secrets)
        return self._begun

    async def attach(self, volume: Volume, secrets: Mapping[str, str]) -> Device:
        """Give the volume its topmost device: the same one, however often asked."""
        devices = [self._begun or await self.begin_attach(secrets)]
        self._begun = None
        for layer in self._layers:
            if layer.wanted(volume):
                was_open = await layer.opened(self._id, devices[-1]) is not None
                device = await layer.open(volume, devices[-1], secrets)
                # A crash may lie between the growth of the device below and the layer's.
                devices.append(await layer.grow(volume, devices[-1]) if was_open else device)
        self.devices = tuple(devices)
        return devices[-1]

    async def undo_attach(self) -> None:
        """Take away the device that `begin_attach` made, if it made one and no `attach` followed."""
        if self._begun is not None and self._begun.new:
            await self._backend.detach(self._id, self._attachment)
        self._begun = None

    async def look(self) -> tuple[Device, ...]:
        """Say which devices the volume has now, bottom first, without making one."""
        bottom = await self._backend.attached(self._id, self._attachment)
        devices = [] if bottom is None else [bottom]
        for layer in self._layers if devices else ():
            if (above := await layer.opened(self._id, devices[-1])) is not None:
                devices.append(above)
        self.devices = tuple(devices)
        return self.devices

    @tracing.phase("detach")
    async def detach(self) -> None:
        """Take all devices away, proven; absent is success.

        Raises:
            VolumeInUse: somebody still holds one; what lies above it is gone.
        """
        await self.require_unheld()
        if self._layers and (bottom := await self._backend.attached(self._id, self._attachment)) is not None:
            await self._close_layers(bottom)
        await self._backend.detach(self._id, self._attachment)
        self.devices = ()
        self._begun = None

    async def require_unheld(self) -> None:
        """Refuse while anybody has a device that was looked up, where its backend would not see a guest.

        Raises:
            VolumeInUse: with who has it.
        """
        counted = isinstance(self._backend, Counting) and self._backend.counts_openers
        if self.devices and not counted:
            await off_loop(unused.require_unheld, self._id, self.devices)

    async def release(self, attachment: Attachment) -> None:
        """Do as `detach` by what the node remembers and the kernel knows, where the storage cannot be asked.

        Raises:
            VolumeInUse: as `detach`.
            HostError: nothing proves whose the device is.
        """
        if self._layers and attachment.device is not None:
            await self._close_layers(Device(attachment.device, 0))
        await self._backend.release(self._id, attachment)
        self.devices = ()

    async def _close_layers(self, bottom: Device) -> None:
        open_layers: list[tuple[Layer, Device]] = []
        below = bottom
        for layer in self._layers:
            if (above := await layer.opened(self._id, below)) is not None:
                open_layers.append((layer, below))
                below = above
        for layer, lower in reversed(open_layers):
            await layer.close(self._id, lower)

    async def refresh(self, volume: Volume) -> Device:
        """Make the attached devices as large as the volume is now; give the topmost."""
        size_bytes = await self._backend.refresh(self._id, self._attachment)
        devices = [Device(self.devices[0].path, size_bytes)]
        for layer in self._layers:
            if await layer.opened(self._id, devices[-1]) is not None:
                devices.append(await layer.grow(volume, devices[-1]))
        self.devices = tuple(devices)
        return devices[-1]
