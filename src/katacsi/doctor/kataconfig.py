"""One configuration of Kata with its drop-ins, as the shim would see it; each key remembers its file.

Both runtimes read `config.d/` beside the file that a link leads to, in the order of the names, and lay each
file over what was there, key by key. Source: kata-containers, runtime/pkg/katautils/config.go (decodeConfig)
and libs/kata-types/src/config/drop_in.rs.
"""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from katacsi.findings import failure, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Result


class Flavour(enum.Enum):
    """Which of Kata's two runtimes."""

    GO = "Go runtime"
    RUST = "runtime-rs"


#: What only runtime-rs can drive.
_RUST_ONLY: Final = frozenset({"openvmm"})


@dataclass(frozen=True, slots=True)
class Written:
    """A value, and the file that it is written in."""

    value: object
    file: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What counts for a key, written or by default.

    Attributes:
        section: such as `hypervisor.qemu`.
        key: its name there.
        value: what the shim takes.
        file: where it is written; empty for a default.
        configuration: the path of the configuration, to which drop-ins belong.
    """

    section: str
    key: str
    value: object
    file: str
    configuration: str

    @property
    def place(self) -> str:
        """Where it is, or would be, written, and the value."""
        where = f"[{self.section}] {self.key} = {_toml(self.value)}"
        return f"{self.file}: {where}" if self.file else f"{self.configuration}: {where} (by default)"

    def remedy(self, value: object) -> str:
        """Say where to write another value."""
        wanted = f"{self.key} = {_toml(value)}"
        if self.file and self.file != self.configuration:
            return f"set {wanted} in {self.file}"
        folder = PurePosixPath(self.configuration).parent / "config.d"
        return f"write a file {folder}/60-katacsi.toml: [{self.section}] {wanted}"


@dataclass(frozen=True, slots=True)
class KataConfiguration:
    """What a configuration says, drop-ins included.

    Attributes:
        path: the file, links followed.
        flavour: whose it is; `None`: it cannot be told.
        hypervisor: its name as in `[hypervisor.NAME]`; empty when there is none.
        settings: every key that is written, by its dotted path.
        problem: why it cannot be used; empty: it can. A shim that meets the same fails its pods.
        unread: `problem` is ours (a permission), and says nothing of the shim.
        handlers: the runtime handlers that use it.
        version: Kata's version; empty when it is not known, and then `version_problem` says why.
        asked_for: whoever runs doctor has named it.
    """

    path: str
    flavour: Flavour | None = None
    hypervisor: str = ""
    settings: Mapping[str, Written] = field(default_factory=dict)
    problem: str = ""
    unread: bool = False
    handlers: tuple[str, ...] = ()
    version: str = ""
    version_problem: str = ""
    asked_for: bool = False

    @property
    def name(self) -> str:
        """How it is called where a person reads it: by its handlers, else by its file."""
        return ", ".join(self.handlers) or self.path

    @property
    def kind(self) -> str:
        """The runtime, the hypervisor and the version, in words."""
        flavour = self.flavour.value if self.flavour else "runtime not known"
        return " ".join(filter(None, (flavour, self.hypervisor, self.version)))

    @property
    def release(self) -> tuple[int, ...] | None:
        """The version as numbers; `None` when it is not known."""
        return numbers(self.version)

    def setting(self, key: str, default: object) -> Setting:
        """Give what counts for a key of the hypervisor's section, or for one by its dotted path."""
        path = key if "." in key else f"hypervisor.{self.hypervisor}.{key}"
        section, _, name = path.rpartition(".")
        written = self.settings.get(path, Written(default, ""))
        return Setting(section, name, written.value, written.file, self.path)


def numbers(version: str) -> tuple[int, ...] | None:
    """Give the numbers of a version; `None`: it has none. A release candidate counts as its release."""
    parts = version.partition("-")[0].split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def parsed(path: str, text: str, drop_ins: Sequence[tuple[str, str]]) -> KataConfiguration:
    """Read a configuration and its drop-ins, given as pairs of file and text, in the shim's order."""
    settings: dict[str, Written] = {}
    for file, content in ((path, text), *drop_ins):
        try:
            tree = tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            return KataConfiguration(path, _of_path(path), problem=f"{file}: is not TOML: {error}")
        for key, value in _leaves(tree):
            if value == {}:  # an empty section says which hypervisor it is, too
                settings.setdefault(key, Written(value, file))
                continue
            # A table that a later file puts in place of a value, and the reverse, hide what was there.
            settings = {
                known: written for known, written in settings.items() if not known.startswith(f"{key}.")
            }
            settings[key] = Written(value, file)
    hypervisor = _hypervisor(settings)
    return KataConfiguration(path, _flavour(path, hypervisor, settings), hypervisor, settings)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        name = f"{above}.{key}" if above else key
        if isinstance(value, dict) and value:
            yield from _leaves(value, name)
        else:
            yield name, value


def _hypervisor(settings: Mapping[str, Written]) -> str:
    chosen = settings.get("runtime.hypervisor_name")
    if chosen is not None and isinstance(chosen.value, str):
        return chosen.value
    sections = [key.split(".")[1] for key in settings if key.startswith("hypervisor.")]
    return sections[0] if sections else ""


def _flavour(path: str, hypervisor: str, settings: Mapping[str, Written]) -> Flavour | None:
    # runtime-rs chooses its runtime and its hypervisor by name; the Go runtime has neither key.
    if "runtime.name" in settings or "runtime.hypervisor_name" in settings or hypervisor in _RUST_ONLY:
        return Flavour.RUST
    return Flavour.GO if hypervisor else _of_path(path)


def _of_path(path: str) -> Flavour | None:
    return Flavour.RUST if "runtime-rs" in path else None


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


# -- checks of configurations --------------------------------------------------------------------------


def of_each(judge: Callable[[KataConfiguration, Node], Result | None]) -> Judge:
    """Make a check of what judges one configuration.

    Those that cannot be used are left out; of them `kata-configuration` speaks.
    """

    def judge_all(node: Node) -> Iterator[Result]:
        for one in node.kata.configurations:
            if not one.problem and one.hypervisor and (result := judge(one, node)) is not None:
                yield result

    return judge_all


def failed(one: KataConfiguration, fact: str, remedy: str) -> Result:
    """Say what breaks; as long as no handler uses the configuration it can break nothing."""
    if one.handlers or one.asked_for:
        return failure(one.name, fact, remedy)
    return warning(one.name, f"{fact} (no handler uses it)", remedy)
