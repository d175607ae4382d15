"""What the stand-in needs of a guest, and of the node it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Answer(Protocol):
    """What came of a command in the guest."""

    code: int
    output: str


class Machine(Protocol):
    """A running guest."""

    def run(self, command: str, timeout: float = ...) -> Answer:
        """Run a shell command as root."""

    def plug(self, device: Path, serial: str, read_only: bool = ...) -> str:
        """Give it a disk, and the name that the guest has for it."""

    def unplug(self, serial: str) -> None:
        """Take a disk away."""

    def resize(self, serial: str, size_bytes: int) -> None:
        """Tell it that a disk has grown."""

    def kill(self) -> None:
        """Cut its power."""


@dataclass(frozen=True)
class Places:
    """Where the runtimes and their clients meet on the node; the defaults are those of stock Kata.

    Attributes:
        records: the root of the direct-volume records.
        go_sockets: a folder per sandbox of the Go runtime, with its shim's socket.
        rust_sockets: the same of runtime-rs.
        bundles: where containerd keeps a bundle per container.
        shared: the folder that virtiofsd exports. Kata exports one sandbox's folder to each guest; here one
            guest serves several sandboxes, one after the other, and this holds a folder of each.
        shared_in_guest: where the guest has it.
        sandboxes: where others on the node look for the folder of a sandbox.
    """

    records: Path
    shared: Path
    shared_in_guest: str
    sandboxes: Path = Path("/run/kata-containers/shared/sandboxes")
    go_sockets: Path = Path("/run/vc/sbs")
    rust_sockets: Path = Path("/run/kata")
    bundles: Path = Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io")
