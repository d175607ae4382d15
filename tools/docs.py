#!/usr/bin/env python3
"""Write the parts of docs/ that the code knows best; with --check, say if they are up to date.

    .venv/bin/python tools/docs.py                     write them
    .venv/bin/python tools/docs.py --check             compare
    .venv/bin/python tools/docs.py --check settings    compare one part: settings, parameters, gates or checks

A part lies between two comments, `<!-- PART: … -->` and `<!-- end of PART -->`; the text around it is a
person's. In the table of gates the sentences are a person's too: a row that is there keeps its sentence, and
a gate without a row gets what its first test promises, for a person to improve.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katacsi.backends import registry
from katacsi.backends.examination import Examined
from katacsi.cli import schema as schemas
from katacsi.doctor.examine import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from katacsi.findings import Check

TREE = Path(__file__).resolve().parent.parent
CONFIGURATION = TREE / "docs" / "configuration.md"
DOCTOR = TREE / "docs" / "doctor.md"
DEVELOPMENT = TREE / "docs" / "development.md"

_GATE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ROW = re.compile(r"^\| `(?P<gate>[a-z0-9-]+)` \| (?P<sentence>.*) \|$", re.MULTILINE)


class Failure(Exception):
    """A part cannot be made; the message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare; return the exit status: 1 for a part that is out of date, 2 for one not made."""
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/.")
    parser.add_argument("--check", action="store_true", help="only compare; fail on a difference")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of: {' '.join(PARTS)}; default: all")
    asked = parser.parse_args(arguments)
    if unknown := sorted({*asked.parts} - {*PARTS}):
        parser.error(f"no such part: {' '.join(unknown)}; there are: {' '.join(PARTS)}")
    stale = False
    for name in asked.parts or PARTS:
        try:
            stale |= not update(name, only_check=asked.check)
        except Failure as failure:
            print(failure, file=sys.stderr)
            return 2
    return 1 if stale and asked.check else 0


def update(name: str, *, only_check: bool) -> bool:
    """Bring a part up to date, or only look; tell whether it was."""
    page, make = PARTS[name]
    whole = page.read_text("utf-8")
    start, end = f"<!-- {name}: written by tools/docs.py -->\n", f"<!-- end of {name} -->"
    before, found, rest = whole.partition(start)
    present, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise Failure(f"{page.relative_to(TREE)}: the comments around the part {name!r} are missing")
    wanted = "\n" + make(present) + "\n"
    if present == wanted:
        return True
    if only_check:
        print(f"{page.relative_to(TREE)}: {name} is out of date; run tools/docs.py")
    else:
        page.write_text(f"{before}{start}{wanted}{end}{after}", "utf-8")
        print(f"wrote {name} in {page.relative_to(TREE)}")
    return False


# -- the configuration ---------------------------------------------------------------------------------


def settings(present: str) -> str:
    """Write a table of katacsi's own keys, and one of each built-in backend's pools."""
    del present
    schema = schemas.compose()
    own: list[tuple[str, ...]] = []
    pools: dict[str, list[tuple[str, ...]]] = {}
    for key, said, required in schemas.keys(schema):
        _, _, below = key.partition("pools.<")
        backend, _, name = below.partition(">.")
        rows = pools.setdefault(backend, []) if backend else own
        shown = name or key
        rows.append((f"`{shown}`", _kind(said), _default(said, required=required), _meaning(said)))
    titles = ("Key", "Type", "Default", "Meaning")
    chapters = {
        "Keys of the driver": own,
        **{f"Keys of a `{name}` pool": pools[name] for name in _built_in()},
    }
    return "\n".join(f"### {title}\n\n{_table(titles, rows)}" for title, rows in chapters.items())


def parameters(present: str) -> str:
    """Write a table of the StorageClass parameters of the built-in backends."""
    del present
    rows = [
        (f"`{backend}.katacsi.io/{key}`", " ".join(text.split()))
        for backend in _built_in()
        for key, text in registry.load(backend).parameters.items()
    ]
    return _table(("Parameter", "Meaning"), rows)


def _built_in() -> list[str]:
    """Name the backends that katacsi itself brings; others may be installed beside them."""
    return [entry.name for entry in registry.installed() if entry.distribution == "katacsi"]


def _kind(said: dict[str, Any]) -> str:
    if "const" in said:
        return f"`{said['const']}`"
    if "enum" in said:
        return " or ".join(f"`{value}`" for value in said["enum"])
    kinds = [kind for kind in said.get("anyOf", [said]) if kind.get("type") != "null"]
    if {kind.get("type") for kind in kinds} == {"integer", "string"}:
        return "[size](#sizes)"
    kind = kinds[0]
    if kind.get("type") == "array":
        return f"list of {kind['items']['type']}s"
    word = str(kind.get("format", kind["type"]))
    return "mapping" if word == "object" else word


def _default(said: dict[str, Any], *, required: bool) -> str:
    if "const" in said or required:
        return "required"
    value = said.get("default")
    if value is None:
        return "–"  # noqa: RUF001  # a dash, as in any table
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _meaning(said: dict[str, Any]) -> str:
    text = " ".join(str(said.get("description", "")).split())
    # Outside code, Markdown takes `<…>` for a tag, which nobody would see. Every second part is code.
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


# -- the gates -----------------------------------------------------------------------------------------


def gates(present: str) -> str:
    """Write a table of the gates that tests hold, each with its sentence."""
    sentences = {row["gate"]: row["sentence"].replace("\\|", "|") for row in _ROW.finditer(present)}
    rows = [
        (f"`{gate}`", sentences.get(gate) or _in_words(tests[0])) for gate, tests in sorted(_held().items())
    ]
    return _table(("Gate", "What is promised"), rows)


def _held() -> dict[str, list[str]]:
    """Ask pytest for the gates and the tests that hold them."""
    argv = [sys.executable, "-m", "pytest", "--gates", "-p", "no:cacheprovider"]
    answer = subprocess.run(
        argv, cwd=TREE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found: dict[str, list[str]] = {}
    gate = ""
    for line in answer.stdout.splitlines():
        if line.startswith("    ") and gate:
            found[gate].append(line.strip())
        else:
            gate = line if _GATE.fullmatch(line) else ""
            if gate:
                found[gate] = []
    if answer.returncode not in (0, 5) or not found:
        raise Failure(f"pytest --gates ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}")
    return {name: tests for name, tests in found.items() if tests}


def _in_words(test: str) -> str:
    """Say what a test promises: the first line of its docstring, or else its name."""
    file, *_, name = test.split("::")
    for node in ast.walk(ast.parse((TREE / file).read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return (ast.get_docstring(node) or name).splitlines()[0]
    # Inherited, from the conformance suite for example.
    return name.removeprefix("test_").replace("_", " ").capitalize() + "."


# -- the checks of katacsi doctor ----------------------------------------------------------------------


def checks(present: str) -> str:
    """Write a table of what `katacsi doctor` looks at, a group after the other."""
    del present
    chapters: dict[str, list[tuple[str, ...]]] = {}
    brought = (check for name in _built_in() for check in _brought(name))
    for check in (*CHECKS, *brought):
        row = (f"`{check.id}`", check.about, check.harm.value or "–", check.why)  # noqa: RUF001  # a dash
        chapters.setdefault(check.group, []).append(row)
    titles = ("Check", "Looks at", "Harm", "Why")
    return "\n".join(f"### {group}\n\n{_table(titles, rows)}" for group, rows in chapters.items())


def _brought(backend: str) -> Sequence[Check[Any]]:
    factory = registry.load(backend)
    return factory.checks() if isinstance(factory, Examined) else ()


# -- Markdown ------------------------------------------------------------------------------------------


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([*_lines([titles, ["---"] * len(titles), *rows]), ""])


def _lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


PARTS = {
    "settings": (CONFIGURATION, settings),
    "parameters": (CONFIGURATION, parameters),
    "gates": (DEVELOPMENT, gates),
    "checks": (DOCTOR, checks),
}

if __name__ == "__main__":
    sys.exit(main())
