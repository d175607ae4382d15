"""The runtime handlers of containerd and CRI-O that lead to Kata, read from their configurations.

Source: containerd's docs/cri/config.md (version 2 and 3) and docs/man/containerd-config.toml.5.md (imports);
crio.conf(5). A pod names a handler by its RuntimeClass.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: The tables of handlers, by the version of containerd's configuration: 3, 2, and 1.
_CONTAINERD_TABLES: Final = (
    ("plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"),
    ("plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes"),
    ("plugins", "cri", "containerd", "runtimes"),
)
_CRIO_TABLE: Final = ("crio", "runtime", "runtimes")
_SCRIPT_CONFIGURATION: Final = re.compile(r"^[^#\n]*\bKATA_CONF_FILE=[\"']?(/[^\s\"';]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Handler:
    """A runtime handler that leads to Kata.

    Attributes:
        name: as a RuntimeClass names it.
        source: the file that defines it.
        engine: the program that starts its pods, `containerd` or `crio`.
        type: containerd's runtime type, such as `io.containerd.kata-qemu.v2`, or CRI-O's `vm`.
        shim: the shim's path, when it is given.
        configuration: Kata's configuration, when it is given.
        configuration_there: whether that file is there; `None` when nobody could look.
        without_host_devices: whether a privileged pod gets none of the host's devices; `None`: not said.
    """

    name: str
    source: str
    engine: str = "containerd"
    type: str = ""
    shim: str = ""
    configuration: str = ""
    configuration_there: bool | None = True
    without_host_devices: bool | None = None

    @property
    def program(self) -> str:
        """The shim's file name; containerd makes it of the type: io.containerd.NAME.VERSION.

        CRI-O takes the handler's own name where no path is given.
        """
        if self.shim:
            return PurePosixPath(self.shim).name
        if self.engine == "crio":
            return self.name
        parts = self.type.split(".")
        return f"containerd-shim-{parts[-2]}-{parts[-1]}" if len(parts) >= 2 else ""


def imports(tree: Mapping[str, Any], file: str) -> list[str]:
    """Name what a configuration of containerd imports; a relative path is meant beside the file."""
    named = tree.get("imports") or []
    return [str(PurePosixPath(file).parent / entry) for entry in named if isinstance(entry, str)]


def of_containerd(trees: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Handler]:
    """Give the handlers of Kata in parsed files; of a name that comes again, the later file's keys count."""
    found: dict[str, Handler] = {}
    for file, tree in trees:
        for table in _CONTAINERD_TABLES:
            for name, said in _tables(tree, table):
                options = said.get("options")
                given = options if isinstance(options, dict) else {}
                handler = Handler(
                    name,
                    file,
                    "containerd",
                    _text(said, "runtime_type"),
                    _text(said, "runtime_path") or _text(given, "BinaryName") or _path(said, "runtime_type"),
                    _text(given, "ConfigPath"),
                    without_host_devices=_flag(said, "privileged_without_host_devices"),
                )
                found[name] = _over(found.get(name), handler)
    return [handler for handler in found.values() if _is_kata(handler)]


def of_crio(trees: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Handler]:
    """Give the handlers of Kata in parsed files of CRI-O; a later file replaces a handler."""
    found = {
        name: Handler(
            name,
            file,
            "crio",
            _text(said, "runtime_type"),
            _text(said, "runtime_path"),
            _text(said, "runtime_config_path"),
            without_host_devices=_flag(said, "privileged_without_host_devices"),
        )
        for file, tree in trees
        for name, said in _tables(tree, _CRIO_TABLE)
    }
    return [handler for handler in found.values() if _is_kata(handler)]


def parsed(text: str) -> dict[str, Any] | str:
    """Read a file, or say why it cannot be."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return f"is not TOML: {error}"


def configuration_in_script(text: str) -> str:
    """Give the configuration that a shim's wrapper script sets; older installers write such scripts."""
    found = _SCRIPT_CONFIGURATION.search(text) if text.startswith("#!") else None
    return found[1] if found else ""


def _tables(tree: Mapping[str, Any], path: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    below: Any = tree
    for key in path:
        below = below.get(key) if isinstance(below, dict) else None
    if isinstance(below, dict):
        yield from ((name, said) for name, said in below.items() if isinstance(said, dict))


def _over(before: Handler | None, handler: Handler) -> Handler:
    if before is None:
        return handler
    return replace(
        handler,
        type=handler.type or before.type,
        shim=handler.shim or before.shim,
        configuration=handler.configuration or before.configuration,
        without_host_devices=before.without_host_devices
        if handler.without_host_devices is None
        else handler.without_host_devices,
    )


def _is_kata(handler: Handler) -> bool:
    words = (handler.name, handler.type, handler.program, handler.configuration)
    return any("kata" in word for word in words)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _path(table: Mapping[str, Any], key: str) -> str:
    """Give a value that is a path, as a type may be for containerd; empty: it is none."""
    value = _text(table, key)
    return value if value.startswith("/") else ""


def _flag(table: Mapping[str, Any], key: str) -> bool | None:
    value = table.get(key)
    return value if isinstance(value, bool) else None
