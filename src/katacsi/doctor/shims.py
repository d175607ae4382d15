"""Kata's shims: where they lie, which configuration they take by themselves, which version they are.

Versions are from the history of kata-containers; docs/kata-contract.md has the reasons.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from katacsi.doctor import handlers as runtime
from katacsi.doctor.kataconfig import Flavour, failed, of_each
from katacsi.errors import KatacsiError
from katacsi.findings import Checks, Harm, Unread, ok, unknown, warning
from katacsi.host import command
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.kataconfig import KataConfiguration
    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result

SHIMS: Final[Checks[Judge]] = Checks("Kata")

#: What the configuration is named that a shim takes when it is told nothing.
DEFAULT: Final = "configuration.toml"

#: Where a shim is looked for that is named without a path.
_PROGRAMS: Final = ("/usr/local/bin", "/usr/bin", "/opt/kata/bin", "/opt/kata/runtime-rs/bin")

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+[-.+~\w]*")

_SHIM_VERSION: Final = re.compile(r"version: (\S+?),")

_SHIM_TIMEOUT_S: Final = 5.0


def _programs(handler: Handler) -> list[str]:
    if handler.shim.startswith("/"):
        return [handler.shim]
    return [f"{folder}/{handler.program}" for folder in _PROGRAMS] if handler.program else []


def named_in_script(files: HostFiles, handler: Handler) -> str:
    """Give the configuration that a handler's shim names, where it is a script; empty: none."""
    for path in _programs(handler):
        text = files.text(path)
        if isinstance(text, str) and (named := runtime.configuration_in_script(text)):
            return named
    return ""


def default_places(handler: Handler) -> Iterator[str]:
    """Name where a shim looks that is told nothing, in its order."""
    prefix = str(PurePosixPath(handler.shim).parent.parent) if handler.shim else ""
    rust = "/runtime-rs/" in handler.shim
    prefixes = dict.fromkeys(filter(None, (prefix.removesuffix("/runtime-rs"), "/usr", "/opt/kata")))
    folders = ["/etc/kata-containers", *(f"{each}/share/defaults/kata-containers" for each in prefixes)]
    orders = [
        [f"{folder}/{DEFAULT}" for folder in folders],
        [f"{folder}/runtime-rs/{DEFAULT}" for folder in folders],
    ]
    for order in reversed(orders) if rust else orders:
        yield from order


async def versioned(
    files: HostFiles, one: KataConfiguration, shims: Mapping[str, Handler]
) -> KataConfiguration:
    """Add the version: the one written beside the shim, else what the shim says of itself."""
    candidates = [path for name in one.handlers for path in _programs(shims[name])]
    candidates += _beside(one)
    program = next(
        (path for path in dict.fromkeys(candidates) if isinstance(files.status(path), os.stat_result)), None
    )
    if program is None:
        return replace(one, version_problem="no shim was found that could be asked")
    program = files.followed(program)
    written = files.text(f"{_prefix(program)}/VERSION")
    if isinstance(written, str) and (found := _VERSION.search(written)):
        return replace(one, version=found[0])
    answer = await _asked(files, program)
    if isinstance(answer, Unread):
        return replace(one, version_problem=answer.reason)
    return replace(one, version=answer)


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
        completed = await off_loop(
            command.run, [str(files.here(program)), "--version"], timeout_s=_SHIM_TIMEOUT_S, ok=range(256)
        )
    except KatacsiError as error:
        return Unread(f"{program} --version: {error.message}")
    said = completed.stdout.decode(errors="replace") + completed.stderr
    found = _SHIM_VERSION.search(said) or _VERSION.search(said)
    return found[found.re.groups] if found else Unread(f"{program} --version: names no version")


@SHIMS.add(
    "kata-version",
    "Kata's version",
    Harm.DATA,
    "Before 2.5.0 records were looked for under another name. runtime-rs ignores mount options before 4.0.0 "
    "and cannot mount read-only direct volumes before 4.1.0.",
)
@of_each
def version(one: KataConfiguration, _: Node) -> Result:
    """Compare versions."""
    release = one.release
    if release is None:
        return unknown(
            one.name,
            one.version_problem or f"version {one.version!r} is not understood",
            "ask the shim: containerd-shim-kata-v2 --version (2.5.0 or newer is needed)",
            harm=Harm.NONE,
        )
    if release < (2, 5):
        return failed(one, f"Kata {one.version} names records otherwise", "update Kata to 2.5.0 or newer")
    if one.flavour is Flavour.RUST and release < (4, 0):
        return warning(
            one.name,
            f"runtime-rs {one.version} ignores the mount options of direct volumes, and fails read-only ones",
            "update Kata to 4.1.0 or newer",
            Harm.PODS,
        )
    if one.flavour is Flavour.RUST and release < (4, 1):
        return warning(
            one.name,
            f"runtime-rs {one.version} cannot mount read-only direct volumes",
            "update Kata to 4.1.0 or newer, or do not use them read-only",
            Harm.PODS,
        )
    return ok(one.name, f"Kata {one.version}")
