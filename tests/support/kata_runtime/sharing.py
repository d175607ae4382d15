"""What becomes of a mount without a record: its source on the host is shared into the guest.

This is what a direct volume has to fear: the container writes, and the bytes land on the node's disk. Paths:
src/runtime/virtcontainers/fs_share_linux.go, src/runtime-rs/crates/resource/src/share_fs/utils.rs.
"""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.kata_runtime.machine import Places


class Shares:
    """The folder of one sandbox that its guest sees."""

    def __init__(self, places: Places, sandbox_id: str, below: str, *, by_container: bool) -> None:
        self._folder = places.shared / sandbox_id / below
        self._in_guest = f"{places.shared_in_guest}/{sandbox_id}/{below}"
        self._top = places.shared / sandbox_id
        self._by_container = by_container

    def open(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True)

    def share(self, source: str, container_id: str, destination: str) -> tuple[str, Path]:
        """Bind a source of the host below the folder; give where the guest and the host see it.

        The Go runtime names it after the container, runtime-rs after its sandbox (share_fs_volume.rs).
        """
        owner = container_id if self._by_container else "sandbox"
        name = f"{owner}-{secrets.token_hex(4)}-{Path(destination).name}"
        at = self._folder / name
        at.mkdir()
        subprocess.run(["mount", "--bind", "--make-slave", source, at], check=True)
        return f"{self._in_guest}/{name}", at

    def folder(self, name: str) -> None:
        """Make an empty folder, as runtime-rs does for each direct volume (generate_shared_path())."""
        (self._folder / name).mkdir()

    def unshare(self, at: Path) -> None:
        """Take a source back."""
        # Lazily, as both runtimes do: virtiofsd holds what the guest has looked at.
        subprocess.run(["umount", "--lazy", at], check=True)
        at.rmdir()

    def close(self) -> None:
        """Remove the folder with all that is bound there."""
        if not self._top.exists():
            return
        for at in self._folder.iterdir():
            if at.is_mount():
                subprocess.run(["umount", "--lazy", at], check=True)
            at.rmdir()
        for folder in (self._folder, *self._folder.parents):
            folder.rmdir()
            if folder == self._top:
                break
