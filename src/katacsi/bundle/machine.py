"""What the node is: versions of everything, and what its kernel says of the driver's devices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from typing import TYPE_CHECKING, Final

import katacsi
from katacsi.bundle import devices
from katacsi.errors import KatacsiError
from katacsi.host import command, kernellog
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.bundle.parts import Subject

#: How each tool tells its version.
_TOOLS: Final[Mapping[str, Sequence[str]]] = {
    "blkid": ("-V",),
    "e2fsck": ("-V",),
    "kata-runtime": ("--version",),
    "lvm": ("version",),
    "mkfs.btrfs": ("--version",),
    "mkfs.ext4": ("-V",),
    "mkfs.xfs": ("-V",),
}
_TOOL_TIMEOUT_S: Final = 5.0
_MOST_LINES: Final = 2000
#: Bytes of a broken block, such as of a folder, in which the names of a user's files are.
_DUMP: Final = re.compile(r": [0-9a-f]{8}: (?:[0-9a-f]{2} ){4}")
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")


async def versions(subject: Subject) -> object:
    """Give the versions of katacsi, of what it is made with, of the kernel, the system and the tools."""
    return await off_loop(_versions, subject)


def _versions(subject: Subject) -> dict[str, object]:
    kernel = os.uname()
    return {
        "katacsi": katacsi.__version__,
        "python": platform.python_version(),
        "packages": _packages(),
        "kernel": {"release": kernel.release, "version": kernel.version, "machine": kernel.machine},
        "system": _system(subject),
        "tools": {tool: _tool(tool, words) for tool, words in _TOOLS.items()},
    }


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for needed in importlib.metadata.requires("katacsi") or ():
        name = re.split(r"[^A-Za-z0-9._-]", needed, maxsplit=1)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _system(subject: Subject) -> str:
    try:
        text = (subject.host_root / "etc/os-release").read_text(errors="replace")
    except OSError as error:
        return f"not known: {error.strerror}"
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    return found[1] if found else "not known"


def _tool(tool: str, words: Sequence[str]) -> str:
    try:
        completed = command.run([tool, *words], timeout_s=_TOOL_TIMEOUT_S)
    except KatacsiError as error:
        return error.message
    said = completed.stdout.decode(errors="replace").strip() or completed.stderr
    return said if tool == "lvm" else said.partition("\n")[0]


async def kernel_log(subject: Subject) -> object:
    """Give the last lines of the kernel's log that name a device of the driver's."""
    found = await off_loop(devices.ours, subject)
    lines = await off_loop(kernellog.lines)
    names = sorted({name for device in found for name in (device.name, device.mapped) if name}, key=len)
    if not names:
        return "No line: this driver has no device on this node now.\n"
    ours = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])")
    chosen = [_without_data(line) for line in lines if ours.search(line)][-_MOST_LINES:]
    return "\n".join(chosen) + "\n" if chosen else f"No line names any of: {', '.join(names)}\n"


def _without_data(line: str) -> str:
    """Give a line without what it quotes of a filesystem: names of files, and bytes of blocks."""
    if found := _DUMP.search(line):
        return f"{line[: found.start()]}: [bytes left out]"
    return _QUOTED.sub("'[left out]'", line)
