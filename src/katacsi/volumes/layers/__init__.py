"""What may lie between the device that a backend gives and the one that is formatted, mounted or handed over.

A layer is a block device over another: an encryption, room to grow, a limit. Layers are opened and grown
bottom up and closed top down, and whoever proves that a volume is not in use looks at each level. Those of a
release are `app.LAYERS`; docs/development.md, "Layers", says how to add one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.api import Device, Volume
    from katacsi.model import VolumeId


class Layer(Protocol):
    """One kind of layer. Each method states a wished end and may be repeated after a crash at any point."""

    def wanted(self, volume: Volume) -> bool:
        """Whether a volume has this layer: by its attributes and facts alone, the same for its whole life."""

    async def open(self, volume: Volume, below: Device, secrets: Mapping[str, str]) -> Device:
        """Have the layer on the device below, and give its own device; open already is success.

        It may have been opened before the device below grew; `grow` is called then. `secrets` are those of a
        call: of stage, publish or expansion, and any of them may come without.

        Raises:
            HostError: it cannot be opened; the device below is as it was.
        """

    async def opened(self, volume_id: VolumeId, below: Device) -> Device | None:
        """Give the layer's device if it is open on the one below; from the kernel's tables alone.

        Asked of every volume, also of one that never wanted the layer: recognise your own device.
        """

    async def close(self, volume_id: VolumeId, below: Device) -> None:
        """Take the layer off the device below, where `opened` says that it is there.

        Raises:
            VolumeInUse: somebody holds its device.
        """

    async def grow(self, volume: Volume, below: Device) -> Device:
        """Make an open layer as large as the grown device below lets it, and give its device."""
