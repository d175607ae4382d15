"""The documentation is true: what it names exists, and what exists is named."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest
import yaml

from katacsi import errors, settings
from katacsi.app import pools_of
from katacsi.backends import registry
from katacsi.cli.root import katacsi
from katacsi.errors import KatacsiError
from katacsi.metrics import Metrics, NodeWatchMetrics
from katacsi.rpc.status import TABLE
from katacsi.volumes import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parents[2]
DOCS = TREE / "docs"
PAGES = sorted(
    [
        *TREE.glob("*.md"),
        *DOCS.glob("*.md"),
        *(path for path in TREE.glob("examples/*/*.md")),
    ]
)
OWN_PAGES = [TREE / "README.md", *sorted(DOCS.glob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!!)\[[^\]\n]*(?:\n[^\]\n]*)?\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_PROMPT = re.compile(r"^(sudo |env/bin/|\.venv/bin/)+")


def named(page: Path) -> str:
    return str(page.relative_to(TREE))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


class Block(NamedTuple):
    """A code block."""

    page: Path
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    return [
        Block(page, found["language"], found["text"])
        for page in OWN_PAGES
        for found in _FENCE.finditer(page.read_text("utf-8"))
        if found["language"] == language
    ]


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every command line in a block without a language, and every piece of code in the text."""
    for page in OWN_PAGES:
        for found in _CODE.finditer(prose(page)):
            yield page, _PROMPT.sub("", found[1]).split()
    for block in blocks(""):
        for line in block.text.replace("\\\n", " ").splitlines():
            bare = _PROMPT.sub("", line)
            if bare.startswith(("katacsi ", "make ")):
                yield block.page, shlex.split(bare, comments=True)


# -- the generated parts -------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["settings", "parameters", "gates", "checks"])
def test_generated_tables_are_up_to_date(part):
    """The tables of settings, parameters, gates and checks say what the code and the tests say."""
    argv = [sys.executable, "tools/docs.py", "--check", part]
    answer = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_picture_of_the_dashboard_is_up_to_date():
    """It shows the panels that the chart's file has, and every legend has something to show."""
    argv = [sys.executable, "tools/dashboard.py", "--check"]
    answer = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


# -- links ---------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges make them."""
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    """Every link to a file of the project leads to one, and every anchor to a heading."""
    broken = []
    for found in _LINK.finditer(prose(page)):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [page for page in OWN_PAGES if page.name != "index.md"], ids=named)
def test_every_page_is_in_the_map(page):
    """docs/index.md leads to every page, or names it."""
    index = prose(DOCS / "index.md")
    links = {(DOCS / found["target"]).resolve() for found in _LINK.finditer(index)}
    assert page in links or f"`{named(page)}`" in index


# -- errors --------------------------------------------------------------------------------------------


def error_classes(base: type[KatacsiError] = KatacsiError) -> Iterator[type[KatacsiError]]:
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from error_classes(kind)


def test_every_error_is_explained():
    """docs/errors.md has a row for each class of katacsi.errors: its code, and whether a retry helps."""
    rows = re.findall(
        r"^\| `(\w+)` \| ([A-Z_]+) \| (yes|no) \|", (DOCS / "errors.md").read_text(), re.MULTILINE
    )
    expected = []
    for kind in error_classes():
        status = next(TABLE[family] for family in kind.__mro__ if family in TABLE)
        expected.append((kind.__name__, status.name, "yes" if kind.retry_helps else "no"))
    assert sorted(rows) == sorted(expected)


# -- commands ------------------------------------------------------------------------------------------


def _problem(words: list[str]) -> str:
    """What is wrong with a command line of katacsi: an unknown command, or an unknown option."""
    command: click.Command = katacsi
    rest = words[1:]
    with click.Context(command) as context:
        while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
            found = command.get_command(context, rest[0])
            if found is None:
                return f"no command {rest[0]!r}"
            command, rest = found, rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {"--help", "-h", "--version"}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no option {', '.join(unknown)}" if unknown else ""


def test_commands_of_katacsi_exist():
    """Every `katacsi …` in the pages is a command with these options."""
    wrong = [
        f"{named(page)}: {shlex.join(words)}: {problem}"
        for page, words in commands()
        if words[0] == "katacsi" and (problem := _problem(words))
    ]
    assert not wrong
    assert sum(words[0] == "katacsi" for _, words in commands()) > 20, "the pages are not read as meant"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (TREE / "Makefile").read_text(), re.MULTILINE))


def test_make_targets_exist():
    """Every `make …` in the pages is a target, and docs/development.md names every target."""
    used = {words[1] for _, words in commands() if words[0] == "make" and len(words) > 1}
    assert not used - make_targets()
    development = (DOCS / "development.md").read_text()
    assert [target for target in make_targets() if f"`make {target}`" not in development] == []


def test_tiers_are_listed():
    """docs/development.md has a row for each tier that `make test` runs."""
    argv = [sys.executable, "tools/run_tests.py", "--list"]
    answer = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, check=True)
    development = (DOCS / "development.md").read_text()
    assert [tier for tier in answer.stdout.split() if f"\n| `{tier}` |" not in development] == []


# -- configuration, StorageClasses, metrics ------------------------------------------------------------


def documents() -> Iterator[tuple[Path, dict[str, object]]]:
    for block in blocks("yaml"):
        for document in yaml.safe_load_all(block.text):
            yield block.page, document


def test_examples_of_configuration_are_accepted():
    """Every YAML example that is a configuration would be taken by `katacsi serve`."""
    found = [(page, document) for page, document in documents() if "kind" not in document]
    for page, document in found:
        loaded = settings.parse(document, where=named(page))
        assert [pool.name for pool in pools_of(loaded, "node-1")] == list(loaded.pools)
    assert len(found) >= 3


def test_examples_of_storage_classes_are_accepted():
    """Every StorageClass in the pages has parameters that CreateVolume would take."""
    found = [document for _, document in documents() if document.get("kind") == "StorageClass"]
    for document in found:
        assert document["provisioner"] == settings.Settings().driver_name
        chosen = parameters.parse(document["parameters"])
        assert not chosen.backend, "backend parameters in an example are to be checked here, too"
    assert found


def test_every_parameter_is_described():
    """docs/configuration.md names each StorageClass parameter of katacsi's own, and no other."""
    own = {parameters.POOL, parameters.DIRECT, parameters.FS_GROUP_CHANGE_POLICY, parameters.MKFS_OPTIONS}
    text = (DOCS / "configuration.md").read_text()
    assert set(re.findall(r"^\| `(katacsi\.io/[a-z-]+)` \|", text, re.MULTILINE)) == own


def test_every_metric_is_described():
    """docs/operations.md names each metric that there is, and none that there is not."""
    described = set(
        re.findall(r"^\| `(katacsi_[a-z_]+)` \|", (DOCS / "operations.md").read_text(), re.MULTILINE)
    )
    suffix = {"counter": "_total", "info": "_info"}
    families = [
        family
        for kind in (Metrics, NodeWatchMetrics)
        for family in kind.create("0").registry.collect()
        if family.name.startswith("katacsi_")
    ]
    assert described == {family.name + suffix.get(family.type, "") for family in families}
    mentioned = {word for page in OWN_PAGES for word in re.findall(r"\bkatacsi_[a-z_]+\b", prose(page))}
    unknown = {word for word in mentioned if not any(name.startswith(word) for name in described)}
    assert unknown <= {"katacsi_backend_example"}


def test_built_in_backends_are_named():
    """README.md's status table names each backend that katacsi brings."""
    status = (TREE / "README.md").read_text()
    for entry in registry.installed():
        if entry.distribution == "katacsi":
            assert f"| Storage | `{entry.name}`" in status


def test_modules_in_the_pages_exist():
    """Every `katacsi.module` that the pages name can be imported."""
    dotted = {
        word
        for page in OWN_PAGES
        for code in _CODE.findall(prose(page))
        for word in re.findall(r"^katacsi(?:\.[a-z_]+)+$", code)
    }
    for word in dotted - {"katacsi.backends"}:
        module, _, name = word.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(word)
