"""Gathers how katacsi is placed on its node: paths of the kubelet and of guests, its own rights and tools."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.bundles import STOCK_PLACES
from katacsi.doctor import collect_places
from katacsi.doctor.filesystem_checks import TOOLS
from katacsi.doctor.hostfiles import OWN
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Kubelet
from katacsi.host import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.doctor.hostfiles import HostFiles

#: Where the kubelets of common distributions keep their pods.
_KUBELET_ROOTS: Final = (
    "/var/lib/kubelet",
    "/var/lib/k0s/kubelet",
    "/var/snap/microk8s/common/var/lib/kubelet",
)
_SANDBOXES: Final = "/run/kata-containers/shared/sandboxes"
_SCAN_LVS: Final = re.compile(r"^\s*scan_lvs\s*=\s*(\d)", re.MULTILINE)


# -- where guests are found ----------------------------------------------------------------------------


def guest_paths(files: HostFiles) -> dict[str, tuple[bool, bool]]:
    """Say which of the folders, by which guests are found, this process and the node have."""
    folders = [*(place.partition("/*/")[0] for place in STOCK_PLACES), _SANDBOXES]
    return {folder: (_is_there(OWN, folder), _is_there(files, folder)) for folder in folders}


def _is_there(files: HostFiles, path: str) -> bool:
    status = files.status(path)
    return status is not None and not isinstance(status, Unread)


# -- the kubelet ---------------------------------------------------------------------------------------


def kubelet(files: HostFiles, *, contained: bool) -> Kubelet:
    """Find the kubelet's root folder: as it was started, else where there is one."""
    root, found_by = _of_process(files) or _of_folders(files) or (_KUBELET_ROOTS[0], "by default")
    return Kubelet(root, found_by, collect_places.place(root, files, contained=contained))


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


# -- this process --------------------------------------------------------------------------------------


def capabilities() -> int | Unread:
    """Give the capabilities that this process has now."""
    text = OWN.text("/proc/self/status")
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


# -- the node's LVM ------------------------------------------------------------------------------------


def host_lvm_scans(files: HostFiles) -> bool | Unread | None:
    """Say whether the node's own LVM looks into logical volumes; `None`: it has no configuration."""
    text = files.text("/etc/lvm/lvm.conf")
    if not isinstance(text, str):
        return text
    values = _SCAN_LVS.findall(text)
    return bool(values) and values[-1] != "0"
