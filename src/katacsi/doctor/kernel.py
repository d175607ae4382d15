"""What the node's kernel can do: filesystems, modules, io_uring, SELinux."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.doctor.hostfiles import OWN
from katacsi.findings import NOT_LOOKED, Checks, Harm, Unread, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

KERNEL: Final[Checks[Judge]] = Checks("Node")

_MODULE: Final = re.compile(r"([^/\s:]+)\.ko\b")


_FILESYSTEMS: Final = ("ext4", "xfs")


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel can do.

    Attributes:
        release: as `uname -r`.
        filesystems: the types it knows now.
        modules: what it could load, and what is built in, by name with underscores.
        io_uring_disabled: the sysctl; `None`: this kernel has none.
        selinux: whether it is on.
    """

    release: str = ""
    filesystems: frozenset[str] | Unread = NOT_LOOKED
    modules: frozenset[str] | Unread = NOT_LOOKED
    io_uring_disabled: int | Unread | None = None
    selinux: bool | Unread = False


def find(files: HostFiles) -> Kernel:
    """Gather what the kernel can do."""
    release = _line(_either(files, "/proc/sys/kernel/osrelease")) or platform.release()
    return Kernel(
        release=release,
        filesystems=_filesystems(files),
        modules=_modules(files, release),
        io_uring_disabled=_io_uring(files),
        selinux=_selinux(),
    )


def _either(files: HostFiles, path: str) -> str | Unread | None:
    """Read a file of the kernel, which is the same below the node's root and here."""
    text = files.text(path)
    return OWN.text(path) if text is None else text


def _line(text: str | Unread | None) -> str:
    return text.strip() if isinstance(text, str) else ""


def _filesystems(files: HostFiles) -> frozenset[str] | Unread:
    text = _either(files, "/proc/filesystems")
    if not isinstance(text, str):
        return text or Unread("/proc/filesystems: is missing")
    return frozenset(line.split()[-1] for line in text.splitlines() if line.strip())


def _modules(files: HostFiles, release: str) -> frozenset[str] | Unread:
    """Name all modules that can be loaded or are built in; names with - and _ are the same to modprobe."""
    found: set[str] = set()
    folder = f"/lib/modules/{release}"
    for name in ("modules.dep", "modules.builtin"):
        text = files.text(f"{folder}/{name}")
        if isinstance(text, Unread):
            return text
        if text is None:
            return Unread(f"{folder}/{name} is not there, so what can be loaded is not known")
        # In modules.dep the module stands before a colon, and what it needs behind.
        found |= {match[1].replace("-", "_") for line in text.splitlines() if (match := _MODULE.search(line))}
    return frozenset(found)


def _io_uring(files: HostFiles) -> int | Unread | None:
    text = _either(files, "/proc/sys/kernel/io_uring_disabled")
    if not isinstance(text, str):
        return text
    return int(text) if text.strip().isdigit() else Unread(f"io_uring_disabled: {text.strip()!r}")


def _selinux() -> bool | Unread:
    status = OWN.status("/sys/fs/selinux/enforce")
    return status if isinstance(status, Unread) else status is not None


# -- checks ---------------------------------------------------------------------------------------------


@KERNEL.add(
    "node-filesystems",
    "filesystems that the kernel can mount",
    Harm.PODS,
    "For host mounts. A direct volume is mounted by the guest's kernel, which knows ext4 and xfs.",
)
def filesystems(node: Node) -> Iterator[Result]:
    """Look whether the kernel knows them, or can load them."""
    kernel = node.kernel
    if isinstance(kernel.filesystems, Unread):
        yield unknown("kernel", kernel.filesystems.reason)
        return
    for name in _FILESYSTEMS:
        if name in kernel.filesystems:
            yield ok(f"kernel: {name}", "/proc/filesystems has it")
        elif isinstance(kernel.modules, Unread):
            yield unknown(f"kernel: {name}", f"not loaded, and {kernel.modules.reason}", harm=Harm.NONE)
        elif name in kernel.modules:
            yield ok(f"kernel: {name}", "is a module, loaded when it is needed")
        else:
            yield warning(
                f"kernel: {name}",
                f"kernel {kernel.release} has neither it nor a module",
                f"use another kernel, or {name} for direct volumes only",
            )


@KERNEL.add(
    "node-selinux",
    "SELinux",
    Harm.NONE,
    "katacsi mounts its guard with an explicit context, so that nobody relabels it. A volume's `context=` "
    "cannot be honoured in a guest.",
)
def selinux(node: Node) -> Iterator[Result]:
    """Say whether it is on."""
    enabled = node.kernel.selinux
    if isinstance(enabled, Unread):
        yield unknown("SELinux", enabled.reason)
    elif enabled:
        yield note("SELinux", "is on; leave seLinuxMount of the CSIDriver object off")
    else:
        yield ok("SELinux", "is off")
