"""Kata as it is installed: handlers, configurations, versions.

Versions are from the history of kata-containers; docs/kata-contract.md has the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.doctor.kataconfig import Flavour, KataConfiguration
from katacsi.doctor.model import Checks, Harm, failure, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.model import Result
    from katacsi.doctor.node import Node

KATA: Final = Checks("Kata")


@KATA.add(
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


@KATA.add(
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


@KATA.add(
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


@KATA.add(
    "kata-configuration",
    "each configuration and its drop-ins (`config.d`)",
    Harm.PODS,
    "A file that Kata cannot read fails every pod of its handlers.",
)
def configuration(node: Node) -> Iterator[Result]:
    """Say of each configuration whether it can be used, and what it is."""
    for one in node.kata.configurations:
        if one.problem and one.unread:
            yield unknown(one.name, one.problem, "run doctor as root on the node")
        elif one.problem:
            yield failed(one, one.problem, "correct the file; Kata reads all of config.d")
        elif one.flavour is None or not one.hypervisor:
            yield failed(one, f"{one.path}: has no section [hypervisor.…]", "install Kata's own file again")
        else:
            yield ok(one.name, f"{one.path}: {one.kind}")
    if node.kata.unused:
        yield note(
            "other configurations",
            f"{len(node.kata.unused)} that no handler uses were not judged, such as {node.kata.unused[0]}",
            "to judge one, name it by --kata-config",
        )


@KATA.add(
    "kata-version",
    "Kata's version",
    Harm.DATA,
    "Before 2.5.0 records were looked for under another name. runtime-rs ignores mount options before 4.0.0 "
    "and cannot mount read-only direct volumes before 4.1.0.",
)
def version(node: Node) -> Iterator[Result]:
    """Compare versions."""
    for one in usable(node):
        release = one.release
        if release is None:
            yield unknown(
                one.name,
                one.version_problem or f"version {one.version!r} is not understood",
                "ask the shim: containerd-shim-kata-v2 --version (2.5.0 or newer is needed)",
                harm=Harm.NONE,
            )
        elif release < (2, 5):
            yield failed(one, f"Kata {one.version} names records otherwise", "update Kata to 2.5.0 or newer")
        elif one.flavour is Flavour.RUST and release < (4, 0):
            yield warning(
                one.name,
                f"runtime-rs {one.version} ignores the mount options of direct volumes, and fails read-only "
                "ones",
                "update Kata to 4.1.0 or newer",
                Harm.PODS,
            )
        elif one.flavour is Flavour.RUST and release < (4, 1):
            yield warning(
                one.name,
                f"runtime-rs {one.version} cannot mount read-only direct volumes",
                "update Kata to 4.1.0 or newer, or do not use them read-only",
                Harm.PODS,
            )
        else:
            yield ok(one.name, f"Kata {one.version}")


def usable(node: Node) -> Iterator[KataConfiguration]:
    """Give the configurations that make sense; of the others `kata-configuration` speaks."""
    return (one for one in node.kata.configurations if not one.problem and one.hypervisor)


def failed(one: KataConfiguration, fact: str, remedy: str) -> Result:
    """Say what breaks; as long as no handler uses the configuration it can break nothing."""
    if one.handlers or one.asked_for:
        return failure(one.name, fact, remedy)
    return warning(one.name, f"{fact} (no handler uses it)", remedy)
