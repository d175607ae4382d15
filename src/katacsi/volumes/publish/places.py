"""Which of a volume's places the kubelet means by a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.errors import NotFound
from katacsi.host import block
from katacsi.host.offloop import off_loop
from katacsi.volumes.publish.mode import Mode

if TYPE_CHECKING:
    from katacsi.volumes.publish.mark import Published
    from katacsi.volumes.publish.marks import Marks


async def published_at(marks: Marks, volume_id: str, path: str) -> Published | None:
    """Give the publish that a `volume_path` means; None where it is the volume's staging path.

    Of a raw volume any node of its device will do. The kubelet has one of its own for each pod, below its
    plugins/kubernetes.io/csi/volumeDevices/<pv>/dev/, and asks for the volume's statistics there.

    Raises:
        NotFound: the path is not one of the volume's own.
    """
    published = marks.published(path)
    if published is not None and published.volume_id == volume_id:
        return published
    staged = marks.staged(path)
    if staged is not None and staged.volume_id == volume_id:
        return None
    for raw in marks.targets_of(volume_id):
        if raw.mode is Mode.BLOCK and path.startswith("/") and await off_loop(_same_device, path, raw):
            return raw
    raise NotFound(f"volume_path {path}: volume {volume_id} is not staged or published there")


def _same_device(path: str, published: Published) -> bool:
    number = block.number_at(Path(path))
    return number is not None and number == block.number_at(published.target)
