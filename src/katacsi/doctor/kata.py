"""Kata's configurations: where they lie, which of them handlers use, and whether they can be used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.doctor import kataconfig, known_keys, programs, runtimes, shims
from katacsi.doctor.kataconfig import Flavour, KataConfiguration, failed
from katacsi.findings import Checks, Harm, Unread, note, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.processes import Processes
    from katacsi.doctor.programs import Started
    from katacsi.findings import Result

KATA: Final[Checks[Judge]] = Checks("Kata")

#: Folders with Kata's configurations; kata-deploy can install beside `/opt/kata`, with a suffix.
_CONFIGURATIONS: Final = (
    "/etc/kata-containers",
    "/opt/kata*/share/defaults/kata-containers",
    "/usr/share/defaults/kata-containers",
    "/usr/share/kata-containers",
    "/usr/share/kata-containers/defaults",
    "/usr/local/share/defaults/kata-containers",
)

#: Where they lie in such a folder.
_BELOW: Final = (
    "",
    "runtimes/*",
    "custom-runtimes/*",
    "runtime-rs",
    "runtime-rs/runtimes/*",
    "runtime-rs/custom-runtimes/*",
)


@dataclass(frozen=True, slots=True)
class Kata:
    """What there is of Kata.

    Attributes:
        configurations: those that handlers use, or that were asked for; without any the default ones.
        unused: the files of others, which no pod meets.
        handlers: the runtime handlers that lead to Kata.
        started: the program that is started for each of them.
        container_runtimes: the configurations of container runtimes that were read.
        problems: what could not be read of these, each with its reason.
    """

    configurations: tuple[KataConfiguration, ...] = ()
    unused: tuple[str, ...] = ()
    handlers: tuple[Handler, ...] = ()
    started: tuple[Started, ...] = ()
    container_runtimes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


async def find(files: HostFiles, asked: Sequence[str], processes: Processes) -> Kata:
    """Find everything; `asked` are configurations that a person named."""
    found, read, problems = runtimes.handlers(files)
    installed = tuple(_folders(files, problems))
    there = list(_configurations(files, installed, problems))
    used: dict[str, list[str]] = {files.followed(path): [] for path in asked}
    for number, handler in enumerate(found):
        found[number], path = _configured(files, handler)
        if path:
            used.setdefault(files.followed(path), []).append(handler.name)
    chosen = list(used) or [files.followed(path) for path in _defaults(there)]
    asked_for = {files.followed(path) for path in asked}
    configurations = [
        replace(_configuration(files, path), handlers=tuple(used.get(path, ())), asked_for=path in asked_for)
        for path in dict.fromkeys(chosen)
    ]
    by_name = {handler.name: handler for handler in found}
    return Kata(
        configurations=tuple([await shims.versioned(files, one, by_name) for one in configurations]),
        unused=tuple(
            path for path in dict.fromkeys(files.followed(link) for link in there) if path not in chosen
        ),
        handlers=tuple(found),
        started=programs.find(files, found, processes),
        container_runtimes=tuple(read),
        problems=tuple(problems),
    )


def _folders(files: HostFiles, problems: list[str]) -> Iterator[str]:
    for pattern in _CONFIGURATIONS:
        for folder in runtimes.matching(files, pattern, problems):
            status = files.status(folder)
            if isinstance(status, Unread):
                problems.append(status.reason)
            elif status is not None:
                yield folder


def _configurations(files: HostFiles, folders: Sequence[str], problems: list[str]) -> Iterator[str]:
    for folder in folders:
        for below in _BELOW:
            pattern = str(PurePosixPath(folder, below, "configuration*.toml"))
            yield from runtimes.matching(files, pattern, problems)


def _defaults(there: Sequence[str]) -> list[str]:
    """Choose what to judge where no handler is known: what a shim takes that is told nothing."""
    return [path for path in there if PurePosixPath(path).name == shims.DEFAULT] or list(there)


def _configured(files: HostFiles, handler: Handler) -> tuple[Handler, str]:
    """Say which configuration a handler's shim reads; empty: it is not known."""
    named = handler.configuration or shims.named_in_script(files, handler)
    if named:
        status = files.status(named)
        there = None if isinstance(status, Unread) else status is not None
        return replace(handler, configuration=named, configuration_there=there), named if there else ""
    for path in shims.default_places(handler):
        if files.status(path) is not None:
            return handler, path
    return handler, ""


def _configuration(files: HostFiles, path: str) -> KataConfiguration:
    text = files.text(path)
    if isinstance(text, Unread):
        return KataConfiguration(path, problem=text.reason, unread=True)
    if text is None:
        return KataConfiguration(path, problem=f"{path}: is missing")
    folder = f"{PurePosixPath(path).parent}/config.d"
    names = files.names(folder)
    if isinstance(names, Unread):
        return KataConfiguration(path, problem=names.reason, unread=True)
    drop_ins = []
    for name in names:
        drop_in = f"{folder}/{name}"
        content = files.text(drop_in)
        if content is None or files.is_folder(drop_in):
            return KataConfiguration(path, problem=f"{drop_in}: is no file, and Kata reads all of config.d")
        if isinstance(content, Unread):
            return KataConfiguration(path, problem=content.reason, unread=True)
        drop_ins.append((drop_in, content))
    return _without_links(files, kataconfig.parsed(path, text, drop_ins), [file for file, _ in drop_ins])


def _without_links(files: HostFiles, one: KataConfiguration, drop_ins: Sequence[str]) -> KataConfiguration:
    # It asks for the kind of the entry itself, and so fails the pods where a ConfigMap is mounted
    # (libs/kata-types/src/config/drop_in.rs).
    link = next((drop_in for drop_in in drop_ins if files.is_link(drop_in)), "")
    if not link or one.flavour is not Flavour.RUST or one.problem:
        return one
    return replace(one, problem=f"{link}: is a symlink, which runtime-rs refuses in config.d")


# -- checks ---------------------------------------------------------------------------------------------


@KATA.add(
    "kata-configuration",
    "each configuration and its drop-ins (`config.d`)",
    Harm.PODS,
    "A file that Kata cannot read fails every pod of its handlers. So does a key that it does not know, "
    "where it refuses such: the Go runtime in [agent.…] and [hypervisor.…] of a drop-in, runtime-rs in "
    "[agent.…] of any file. The two runtimes know different keys.",
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
        elif unknown_keys := known_keys.refused(one):
            yield from (_unknown_key(one, key) for key in unknown_keys)
        else:
            yield ok(one.name, f"{one.path}: {one.kind}")
    if node.kata.unused:
        yield note(
            "other configurations",
            f"{len(node.kata.unused)} that no handler uses were not judged, such as {node.kata.unused[0]}",
            "to judge one, name it by --kata-config",
        )


def _unknown_key(one: KataConfiguration, key: known_keys.Refused) -> Result:
    version = ".".join(map(str, known_keys.VERSION))
    runtime = one.flavour.value if one.flavour else "Kata"
    fact = (
        f"{key.file}: [{key.section}] {key.key}: {runtime} {version} does not know this key, and refuses it"
    )
    remedy = "remove it" + (f"; did you mean {key.meant}?" if key.meant else "")
    if key.certain:
        return failed(one, fact, remedy)
    return warning(one.name, fact, f"{remedy}, unless Kata {one.version or '(of no known version)'} knows it")
