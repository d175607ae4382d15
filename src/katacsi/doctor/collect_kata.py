"""Finds Kata on a node: its configurations, which of them handlers use, its version."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.doctor import collect_runtimes, kataconfig
from katacsi.doctor import handlers as runtime
from katacsi.doctor.kataconfig import Flavour, KataConfiguration
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Kata
from katacsi.errors import KatacsiError
from katacsi.host import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles

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
_DEFAULT: Final = "configuration.toml"

#: Where a shim is looked for that is named without a path.
_PROGRAMS: Final = ("/usr/local/bin", "/usr/bin", "/opt/kata/bin", "/opt/kata/runtime-rs/bin")

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+[-.+~\w]*")
_SHIM_VERSION: Final = re.compile(r"version: (\S+?),")
_SHIM_TIMEOUT_S: Final = 5.0


async def find(files: HostFiles, asked: Sequence[str]) -> Kata:
    """Find everything; `asked` are configurations that a person named."""
    found, read, problems = collect_runtimes.handlers(files)
    installed = tuple(_folders(files, problems))
    there = list(_configurations(files, installed, problems))
    used: dict[str, list[str]] = {_resolved(files, path): [] for path in asked}
    for number, handler in enumerate(found):
        found[number], path = _configured(files, handler)
        if path:
            used.setdefault(_resolved(files, path), []).append(handler.name)
    chosen = list(used) or [_resolved(files, path) for path in _defaults(there)]
    asked_for = {_resolved(files, path) for path in asked}
    configurations = [
        replace(_configuration(files, path), handlers=tuple(used.get(path, ())), asked_for=path in asked_for)
        for path in dict.fromkeys(chosen)
    ]
    shims = {handler.name: handler for handler in found}
    return Kata(
        configurations=tuple([await _versioned(files, one, shims) for one in configurations]),
        unused=tuple(
            path for path in dict.fromkeys(_resolved(files, link) for link in there) if path not in chosen
        ),
        handlers=tuple(found),
        container_runtimes=tuple(read),
        problems=tuple(problems),
    )


# -- configurations ------------------------------------------------------------------------------------


def _folders(files: HostFiles, problems: list[str]) -> Iterator[str]:
    for pattern in _CONFIGURATIONS:
        for folder in collect_runtimes.matching(files, pattern, problems):
            status = files.status(folder)
            if isinstance(status, Unread):
                problems.append(status.reason)
            elif status is not None:
                yield folder


def _configurations(files: HostFiles, folders: Sequence[str], problems: list[str]) -> Iterator[str]:
    for folder in folders:
        for below in _BELOW:
            pattern = str(PurePosixPath(folder, below, "configuration*.toml"))
            yield from collect_runtimes.matching(files, pattern, problems)


def _defaults(there: Sequence[str]) -> list[str]:
    """Choose what to judge where no handler is known: what a shim takes that is told nothing."""
    return [path for path in there if PurePosixPath(path).name == _DEFAULT] or list(there)


def _resolved(files: HostFiles, path: str) -> str:
    try:
        return str(files.resolved(path))
    except OSError:
        return path


def _configured(files: HostFiles, handler: Handler) -> tuple[Handler, str]:
    """Say which configuration a handler's shim reads; empty: it is not known."""
    named = handler.configuration or _of_script(files, handler)
    if named:
        status = files.status(named)
        there = None if isinstance(status, Unread) else status is not None
        return replace(handler, configuration=named, configuration_there=there), named if there else ""
    for path in _default_places(handler):
        if files.status(path) is not None:
            return handler, path
    return handler, ""


def _of_script(files: HostFiles, handler: Handler) -> str:
    for path in _programs(handler):
        text = files.text(path)
        if isinstance(text, str) and (named := runtime.configuration_in_script(text)):
            return named
    return ""


def _default_places(handler: Handler) -> Iterator[str]:
    """Name where a shim looks that is told nothing, in its order."""
    prefix = str(PurePosixPath(handler.shim).parent.parent) if handler.shim else ""
    rust = "/runtime-rs/" in handler.shim
    prefixes = dict.fromkeys(filter(None, (prefix.removesuffix("/runtime-rs"), "/usr", "/opt/kata")))
    folders = ["/etc/kata-containers", *(f"{each}/share/defaults/kata-containers" for each in prefixes)]
    orders = [
        [f"{folder}/{_DEFAULT}" for folder in folders],
        [f"{folder}/runtime-rs/{_DEFAULT}" for folder in folders],
    ]
    for order in reversed(orders) if rust else orders:
        yield from order


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


# -- versions ------------------------------------------------------------------------------------------


async def _versioned(
    files: HostFiles, one: KataConfiguration, shims: dict[str, Handler]
) -> KataConfiguration:
    """Add the version: the one written beside the shim, else what the shim says of itself."""
    candidates = [path for name in one.handlers for path in _programs(shims[name])]
    candidates += _beside(one)
    program = next(
        (path for path in dict.fromkeys(candidates) if isinstance(files.status(path), os.stat_result)), None
    )
    if program is None:
        return replace(one, version_problem="no shim was found that could be asked")
    program = _resolved(files, program)
    written = files.text(f"{_prefix(program)}/VERSION")
    if isinstance(written, str) and (found := _VERSION.search(written)):
        return replace(one, version=found[0])
    answer = await _asked(files, program)
    if isinstance(answer, Unread):
        return replace(one, version_problem=answer.reason)
    return replace(one, version=answer)


def _programs(handler: Handler) -> list[str]:
    if handler.shim.startswith("/"):
        return [handler.shim]
    return [f"{folder}/{handler.program}" for folder in _PROGRAMS] if handler.program else []


def _beside(one: KataConfiguration) -> list[str]:
    """Name the shims that were installed together with a configuration."""
    prefix, found, _ = one.path.partition("/share/defaults/")
    folders = [f"{prefix}/bin", f"{prefix}/runtime-rs/bin"] if found else list(_PROGRAMS)
    rust = one.flavour is Flavour.RUST
    # In `runtime-rs/bin` there is never a shim of the other runtime; in `bin` there may be either.
    folders.sort(key=lambda folder: ("runtime-rs" in folder) != rust)
    return [f"{folder}/containerd-shim-kata-v2" for folder in folders]


def _prefix(program: str) -> str:
    return str(PurePosixPath(program).parent.parent).removesuffix("/runtime-rs")


async def _asked(files: HostFiles, program: str) -> str | Unread:
    try:
        completed = await command.run(
            [str(files.here(program)), "--version"], timeout_s=_SHIM_TIMEOUT_S, ok=range(256)
        )
    except KatacsiError as error:
        return Unread(f"{program} --version: {error.message}")
    said = completed.stdout.decode(errors="replace") + completed.stderr
    found = _SHIM_VERSION.search(said) or _VERSION.search(said)
    return found[found.re.groups] if found else Unread(f"{program} --version: names no version")
