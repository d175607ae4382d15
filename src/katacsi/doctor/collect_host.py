"""Gathers what is known of the node besides Kata: its kernel, its mounts, this process."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.bundles import STOCK_PLACES
from katacsi.doctor.host_checks import TOOLS
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Kernel, Kubelet, Mounted, Place
from katacsi.errors import KatacsiError
from katacsi.host import command, devicemapper, loop, mount

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Where the kubelets of common distributions keep their pods.
_KUBELET_ROOTS: Final = (
    "/var/lib/kubelet",
    "/var/lib/k0s/kubelet",
    "/var/snap/microk8s/common/var/lib/kubelet",
)
_SANDBOXES: Final = "/run/kata-containers/shared/sandboxes"
_MODULE: Final = re.compile(r"([^/\s:]+)\.ko\b")
_SCAN_LVS: Final = re.compile(r"^\s*scan_lvs\s*=\s*(\d)", re.MULTILINE)
_DMSETUP_TIMEOUT_S: Final = 10.0

#: What this process sees itself, whatever the node's files are.
_OWN: Final = HostFiles()


# -- folders -------------------------------------------------------------------------------------------


def place(path: Path | str, files: HostFiles, *, contained: bool) -> Place | Unread:
    """Look at a folder as this process has it, and whether it is the node's."""
    path = str(path)
    found = _OWN.status(path)
    if isinstance(found, Unread):
        return found
    if found is None:
        return Place(path, exists=False, mounted=mounted(path))
    hosts = None
    if contained:
        theirs = files.status(path)
        if isinstance(theirs, Unread):
            return theirs
        hosts = theirs is not None and (theirs.st_dev, theirs.st_ino) == (found.st_dev, found.st_ino)
    return Place(
        path,
        folder=stat.S_ISDIR(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        mounted=mounted(path),
        hosts=hosts,
    )


def mounted(path: str) -> Mounted | None:
    """Say on which filesystem a path lies, or would lie."""
    try:
        table = mount.table()
        real = Path(path).resolve()
    except (KatacsiError, OSError):
        return None
    # Of a stack the last one counts.
    over = [entry for entry in table if real.is_relative_to(entry.target)]
    if not over:
        return None
    deepest = max(enumerate(over), key=lambda item: (len(item[1].target.parts), item[0]))[1]
    return Mounted(
        str(deepest.target),
        deepest.fs_type,
        read_only=deepest.read_only,
        shared=any(word.startswith("shared:") for word in deepest.propagation),
    )


def guest_paths(files: HostFiles) -> dict[str, tuple[bool, bool]]:
    """Say which of the folders, by which guests are found, this process and the node have."""
    folders = [*(place.partition("/*/")[0] for place in STOCK_PLACES), _SANDBOXES]
    return {folder: (_is_there(_OWN, folder), _is_there(files, folder)) for folder in folders}


def _is_there(files: HostFiles, path: str) -> bool:
    status = files.status(path)
    return status is not None and not isinstance(status, Unread)


# -- the kubelet ---------------------------------------------------------------------------------------


def kubelet(files: HostFiles, *, contained: bool) -> Kubelet:
    """Find the kubelet's root folder: as it was started, else where there is one."""
    root, found_by = _of_process(files) or _of_folders(files) or (_KUBELET_ROOTS[0], "by default")
    return Kubelet(root, found_by, place(root, files, contained=contained))


def _of_process(files: HostFiles) -> tuple[str, str] | None:
    names = files.names("/proc")
    numbers = [] if isinstance(names, Unread) else [name for name in names if name.isdigit()]
    for number in numbers:
        text = files.text(f"/proc/{number}/cmdline")
        if not isinstance(text, str):
            continue
        words = text.split("\0")
        if PurePosixPath(words[0]).name != "kubelet":
            continue
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == "--root-dir" and following:
                return following, "its --root-dir"
            if word.startswith("--root-dir="):
                return word.partition("=")[2], "its --root-dir"
    return None


def _of_folders(files: HostFiles) -> tuple[str, str] | None:
    return next(((root, "it is there") for root in _KUBELET_ROOTS if _is_there(files, root)), None)


# -- the kernel ----------------------------------------------------------------------------------------


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
    return _OWN.text(path) if text is None else text


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
    status = _OWN.status("/sys/fs/selinux/enforce")
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


# -- this process --------------------------------------------------------------------------------------


def capabilities() -> int | Unread:
    """Give the capabilities that this process has now."""
    text = _OWN.text("/proc/self/status")
    if not isinstance(text, str):
        return text or Unread("/proc/self/status: is missing")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(found[1], 16) if found else Unread("/proc/self/status: names no capabilities")


def user() -> int:
    """Give the number of the user as whom this process runs."""
    return os.geteuid()


def tools() -> frozenset[str]:
    """Name the tools that are installed here."""
    wanted: Sequence[str] = [name for names in TOOLS.values() for name in names]
    return frozenset(name for name in wanted if shutil.which(name, path=command.ENVIRONMENT["PATH"]))


def host_lvm_scans(files: HostFiles) -> bool | Unread | None:
    """Say whether the node's own LVM looks into logical volumes; `None`: it has no configuration."""
    text = files.text("/etc/lvm/lvm.conf")
    if not isinstance(text, str):
        return text
    values = _SCAN_LVS.findall(text)
    return bool(values) and values[-1] != "0"
