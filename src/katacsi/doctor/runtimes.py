"""The container runtimes' configurations, and the handlers in them that lead to Kata.

containerd and CRI-O are read where they and their relatives keep their files.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from katacsi.doctor import handlers as runtime
from katacsi.findings import Checks, Harm, Unread, failure, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

HANDLERS: Final[Checks[Judge]] = Checks("Kata")

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


# -- checks ---------------------------------------------------------------------------------------------


@HANDLERS.add(
    "kata-installed",
    "Kata, and handlers of the container runtime that lead to it",
    Harm.PODS,
    "A pod gets a direct volume by a RuntimeClass whose handler leads to Kata. Ordinary pods need none.",
)
def installed(node: Node) -> Iterator[Result]:
    """Name the handlers, or say that there are none."""
    kata = node.kata
    for problem in kata.problems:
        yield unknown("handlers", problem, "repair the file, or run doctor as root on the node")
    for handler in kata.handlers:
        yield ok(f"handler {handler.name}", f"{handler.source}: leads to {handler.program or 'Kata'}")
    if kata.handlers:
        return
    if not kata.configurations:
        yield warning(
            "Kata",
            "neither a configuration nor a handler of Kata was found",
            "install Kata (kata-deploy), or name its configuration by --kata-config; without it there are "
            "host mounts and block volumes only",
        )
    elif not kata.problems:
        read = ", ".join(kata.container_runtimes) or "no configuration of containerd or CRI-O was found"
        yield warning(
            "handlers",
            f"no handler leads to Kata ({read})",
            "add one to the container runtime and name it in a RuntimeClass; kata-deploy does both",
        )


@HANDLERS.add(
    "kata-handler-configuration",
    "the configuration that each handler names",
    Harm.PODS,
    "A shim whose configuration is missing starts no pod at all.",
)
def handler_configuration(node: Node) -> Iterator[Result]:
    """Find the file that each handler names, or that its shim takes by itself."""
    judged = {name: one.path for one in node.kata.configurations for name in one.handlers}
    for handler in node.kata.handlers:
        subject = f"handler {handler.name}"
        if not handler.configuration and handler.name in judged:
            yield ok(subject, f"{handler.source}: names none; by default that is {judged[handler.name]}")
        elif not handler.configuration:
            yield unknown(
                subject,
                f"{handler.source}: names none, and there is none where shims look by default",
                "name it in the handler's options (ConfigPath; CRI-O: runtime_config_path)",
            )
        elif handler.configuration_there is None:
            yield unknown(subject, f"{handler.configuration}: cannot be looked at")
        elif handler.configuration_there:
            yield ok(subject, f"{handler.source}: {handler.configuration}")
        else:
            yield failure(
                subject,
                f"{handler.source}: names {handler.configuration}, which is missing",
                "correct the path in the handler's options, or install Kata again",
            )


@HANDLERS.add(
    "kata-privileged",
    "`privileged_without_host_devices` of each handler",
    Harm.DATA,
    "Without it a privileged pod is given every device of the node, volumes of other pods included.",
)
def privileged(node: Node) -> Iterator[Result]:
    """Look what a privileged pod would be given."""
    for handler in node.kata.handlers:
        subject, key = f"handler {handler.name}", "privileged_without_host_devices"
        if handler.without_host_devices:
            yield ok(subject, f"{handler.source}: {key} = true")
        else:
            yield warning(
                subject,
                f"{handler.source}: {key} is not true",
                "set it to true in the handler's table, or allow no privileged pods there",
            )
