"""What the three routes by which a volume goes to its pod have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from katacsi.host.superblock import Superblock
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.undo import Undo
    from katacsi.volumes.volume import NodeVolume


@dataclass(frozen=True, slots=True)
class Found:
    """What a route finds before it prepares a volume.

    Attributes:
        mounted: the staging path shows the filesystem already.
        filesystem: what is on the device; None: not looked at, or none.
    """

    mounted: bool = False
    filesystem: Superblock | None = None


class Route(Protocol):
    """One way to publish; the workflow calls the methods in this order, and any of them may be repeated."""

    def check(self, volume: NodeVolume, wanted: Published) -> None:
        """Refuse what cannot be published this way, with what to change; nothing is looked at on the host."""

    def stands(self, volume: NodeVolume, published: Published) -> bool:
        """Whether the target has the volume as asked already; it blocks.

        Raises:
            VolumeInUse: the target shows something else.
        """

    def clear(self, volume: NodeVolume, published: Published) -> Found:
        """See that nothing on this host is in the way, and say what `prepare` has to know; it blocks.

        Nobody has the device then: the workflow has proven that.

        Raises:
            VolumeInUse: something is in the way.
        """

    def needs_preparing(self, volume: NodeVolume, published: Published, found: Found) -> bool:
        """Whether `prepare` has anything to do; where it has not, `deliver` follows `clear` in one step."""

    async def prepare(self, volume: NodeVolume, published: Published, found: Found, undo: Undo) -> None:
        """See to what is stored, and to the filesystem, before anybody gets the device."""

    def deliver(self, volume: NodeVolume, published: Published, undo: Undo) -> None:
        """Change the host, from whatever state a former try has left; it blocks."""
