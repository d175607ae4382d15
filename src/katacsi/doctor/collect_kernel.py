"""Gathers what the node's kernel can do: filesystems, modules, loop devices, device-mapper."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING, Final

from katacsi.doctor.hostfiles import OWN
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Kernel
from katacsi.errors import KatacsiError
from katacsi.host import command, devicemapper, loop

if TYPE_CHECKING:
    from katacsi.doctor.hostfiles import HostFiles

_MODULE: Final = re.compile(r"([^/\s:]+)\.ko\b")
_DMSETUP_TIMEOUT_S: Final = 10.0


async def kernel(files: HostFiles, *, lvm: bool) -> Kernel:
    """Gather what the kernel can do; the targets of device-mapper where a pool needs them."""
    release = _line(_either(files, "/proc/sys/kernel/osrelease")) or platform.release()
    return Kernel(
        release=release,
        filesystems=_filesystems(files),
        modules=_modules(files, release),
        io_uring_disabled=_io_uring(files),
        selinux=_selinux(),
        loop_problem=loop.available() or "",
        device_mapper=_device_mapper(files),
        targets=await _targets() if lvm else Unread("no pool needs them"),
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


def _device_mapper(files: HostFiles) -> bool:
    """Whether the driver is there: a node in /dev alone may be a leftover."""
    misc = _either(files, "/proc/misc")
    known = isinstance(misc, str) and "device-mapper" in misc.split()
    return known and devicemapper.CONTROL.exists()


async def _targets() -> frozenset[str] | Unread:
    try:
        answer = await command.run(["dmsetup", "targets"], timeout_s=_DMSETUP_TIMEOUT_S)
    except KatacsiError as error:
        return Unread(error.message)
    return frozenset(line.split()[0] for line in answer.stdout.decode().splitlines() if line.strip())
