"""Copies of disks: shared blocks where the filesystem can, else every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from katacsi.backends.loopfile.layout import CUT, IDENTITY
from katacsi.backends.loopfile.settings import SECTOR_SIZE, Allocation, CopyMode
from katacsi.errors import HostError, OutOfSpace, PoolUnavailable
from katacsi.host import block, files, loopdevices, sizedfiles

if TYPE_CHECKING:
    from pathlib import Path

_PROBE = ".probe"
_PROBE_COPY = ".probe-copy"


class Copier:
    """Makes the bytes of snapshots, clones and restored volumes."""

    def __init__(self, mode: CopyMode) -> None:
        self._mode = mode
        #: Whether a copy is a matter of a moment, and of one moment; known after `probe`.
        self.reflink = False

    def probe(self, directory: Path) -> None:
        """Find out, by trying, whether the pool's filesystem can share blocks.

        Raises:
            PoolUnavailable: it cannot, and the settings demand it.
        """
        if self._mode is CopyMode.FULL:
            return
        original, copy = directory / _PROBE, directory / _PROBE_COPY
        try:
            files.ensure_absent(copy)
            files.write_atomically(original, bytes(SECTOR_SIZE), durable=False)
            self.reflink = sizedfiles.clone_file(original, copy)
        except OutOfSpace:
            # A start must not need room: volumes could not be deleted any more.
            self.reflink = sizedfiles.can_clone(directory / IDENTITY)
        finally:
            files.ensure_absent(copy)
            files.ensure_absent(original)
        if self._mode is CopyMode.REFLINK and not self.reflink:
            raise PoolUnavailable(
                f"{directory}: its filesystem cannot share blocks, and the setting is `copies: reflink`; use "
                "XFS (made with reflink=1) or btrfs, or set `copies: auto`"
            )

    def cut(self, source: Path, target: Path, *, thick: bool = False) -> None:
        """Make a new file with what a disk holds now, and of its size."""
        # What went through the loop device may still be in the device's own cache.
        if (device := loopdevices.attached_to(source)) is not None:
            block.drop_caches(device.path)
        if self.reflink:
            if not sizedfiles.clone_file(source, target):
                raise HostError(
                    f"{source}: its blocks cannot be shared, though the start could; restart katacsi"
                )
        else:
            sizedfiles.copy_file(source, target, thick=thick)

    def fill(self, source: Path, target: Path, size_bytes: int, allocation: Allocation) -> None:
        """Make a disk that begins as another one and may be larger."""
        thick = allocation is Allocation.THICK
        if thick and self.reflink:
            # Shared blocks are not the volume's own, so it gets copies of them, from a cut of one moment.
            cut = target.with_name(CUT)
            self.cut(source, cut)
            sizedfiles.copy_file(cut, target, thick=True)
            files.ensure_absent(cut)
        else:
            self.cut(source, target, thick=thick)
        sizedfiles.grow_file(target, size_bytes, thick=thick)
