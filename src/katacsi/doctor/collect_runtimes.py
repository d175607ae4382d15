"""Reads the configurations of containerd and CRI-O, where they and their relatives keep them."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from katacsi.doctor import handlers as runtime
from katacsi.doctor.model import Unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles

#: containerd's configuration in common distributions: its own, k3s, RKE2, k0s, MicroK8s.
_CONTAINERD: Final = (
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/etc/k0s/containerd.toml",
    "/run/k0s/containerd-cri.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
)
#: Whose files are read without being named anywhere. `/etc/containerd/conf.d` is none of these: containerd
#: follows only the `imports` of files that exist, never those it has by default (cmd/containerd/command).
_CONTAINERD_FOLDERS: Final = ("/etc/k0s/containerd.d",)
_CRIO: Final = "/etc/crio/crio.conf"
_CRIO_FOLDERS: Final = ("/usr/lib/crio/crio.conf.d", "/etc/crio/crio.conf.d")


def handlers(files: HostFiles) -> tuple[list[Handler], list[str], list[str]]:
    """Give Kata's handlers, the files that were read, and what could not be."""
    problems: list[str] = []
    containerd = list(_trees(files, [*_CONTAINERD, *_in_folders(files, _CONTAINERD_FOLDERS)], problems))
    crio = list(_trees(files, [_CRIO, *_in_folders(files, _CRIO_FOLDERS)], problems))
    found = [*runtime.of_containerd(containerd), *runtime.of_crio(crio)]
    return found, [file for file, _ in (*containerd, *crio)], problems


def _in_folders(files: HostFiles, folders: Sequence[str]) -> Iterator[str]:
    for folder in folders:
        names = files.names(folder)
        if not isinstance(names, Unread):
            yield from (f"{folder}/{name}" for name in names if not name.startswith("."))


def _trees(
    files: HostFiles, paths: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read files and what they import, each once; imports are laid over the file that names them."""
    waiting, seen = list(paths)[::-1], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        text = files.text(path)
        if text is None:
            continue
        tree = text.reason if isinstance(text, Unread) else runtime.parsed(text)
        if isinstance(tree, str):
            problems.append(tree if isinstance(text, Unread) else f"{path}: {tree}")
            continue
        yield path, tree
        for pattern in runtime.imports(tree, path)[::-1]:
            waiting += matching(files, pattern, problems)[::-1]


def matching(files: HostFiles, pattern: str, problems: list[str]) -> list[str]:
    """Give the node's paths that match a pattern, with wildcards in any part but none across a slash."""
    found = ["/"]
    for part in PurePosixPath(pattern).parts[1:]:
        if not re.search(r"[*?\[]", part):
            found = [f"{folder.rstrip('/')}/{part}" for folder in found]
            continue
        here, found = found, []
        for folder in here:
            names = files.names(folder)
            if isinstance(names, Unread):
                problems.append(names.reason)
            else:
                found += [f"{folder.rstrip('/')}/{name}" for name in fnmatch.filter(names, part)]
    return found
