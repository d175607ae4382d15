"""Backends are found by entry points, and what is wrong with one is said."""

import sys

import pytest

from katacsi.backends import registry
from katacsi.errors import SettingsError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package: install(distribution, entry point line, module source)."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(distribution, entry, module="", source=""):
        info = tmp_path / f"{distribution}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[katacsi.backends]\n{entry}\n")
        if module:
            (tmp_path / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)

    return make


def test_our_own_backend_is_found_like_any_other():
    """loopfile is an entry point of katacsi's own package."""
    assert "loopfile" in {entry.name for entry in registry.installed()}
    assert registry.load("loopfile").__name__ == "LoopfileBackend"


def test_installed_backends_are_listed_unimported(install):
    """Name, package and version are told of a backend that could not even be imported."""
    install("broken-backend", "broken = no_such_module:Backend")
    assert ("broken", "broken-backend", "2.5") in registry.installed()


def test_a_missing_backend_lists_those_that_are_there(install):
    """The message names what is installed, and how another one gets in."""
    install("other-backend", "other = no_such_module:Backend")
    with pytest.raises(
        SettingsError, match=r"'zfs' is not installed.*loopfile \(katacsi .*other \(other-backend 2.5\)"
    ):
        registry.load("zfs")


def test_two_packages_with_one_name_are_refused(install):
    """Which of two backends is meant is not guessed."""
    install("one", "twice = one_module:Backend")
    install("two", "twice = two_module:Backend")
    with pytest.raises(SettingsError, match=r"one 2.5 and two 2.5"):
        registry.load("twice")


GOOD = """
import pydantic
from katacsi.backends.api import Scope
class Backend:
    class Settings(pydantic.BaseModel, extra="forbid"): pass
    parameters = {}
    scope = Scope.LOCAL
"""


def test_a_foreign_backend_is_loaded(install):
    """A package that brings what is needed is a backend."""
    install("good", "good = good_backend_module:Backend", "good_backend_module", GOOD)
    assert registry.load("good").__name__ == "Backend"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('no library')", "cannot be imported.*no library"),
        ("Backend = 1", "Settings is not a pydantic model"),
        (GOOD.replace(', extra="forbid"', ""), "extra="),
        (GOOD.replace("Scope.LOCAL", "'local'"), "scope"),
        (GOOD.replace("parameters = {}", ""), "parameters"),
    ],
    ids=["import", "settings", "extra", "scope", "parameters"],
)
def test_what_a_foreign_backend_lacks_is_said(install, source, words):
    """A package that is no backend is refused by name, with the reason."""
    install("bad", "bad = bad_backend_module:Backend", "bad_backend_module", source)
    with pytest.raises(SettingsError, match=f"'bad' of bad 2.5.*{words}"):
        registry.load("bad")
