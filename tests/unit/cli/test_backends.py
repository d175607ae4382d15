"""`katacsi backends`."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import katacsi


def test_loopfile_is_listed_with_its_package_and_parameters(run):
    """A backend is listed with its package, its scope, and what a StorageClass may say to it."""
    result = run("backends", "--output", "json")
    assert result.exit_code == 0
    loopfile = next(entry for entry in json.loads(result.stdout) if entry["name"] == "loopfile")
    assert (loopfile["distribution"], loopfile["scope"]) == ("katacsi", "local")
    assert loopfile["version"]
    assert "sparse" in loopfile["parameters"]["loopfile.katacsi.io/allocation"]


def test_the_table_says_the_same(run):
    """The table has the backend and its parameters, by the keys that a StorageClass has."""
    output = run("backends").stdout
    assert "loopfile  local  katacsi" in output
    assert "loopfile.katacsi.io/allocation" in output
    assert katacsi.__version__ in output


def test_a_broken_backend_hides_no_other(run, monkeypatch):
    """A backend that cannot be imported is named with the reason; the others are listed; exit code 1."""
    points = [
        EntryPoint("broken", "no_such_module_anywhere:Backend", "katacsi.backends"),
        EntryPoint("loopfile", "katacsi.backends.loopfile:LoopfileBackend", "katacsi.backends"),
    ]
    monkeypatch.setattr(
        "katacsi.backends.registry.entry_points",
        lambda *, group, name=None: [point for point in points if name in (None, point.name)],
    )
    result = run("backends")
    assert result.exit_code == 1
    assert "loopfile" in result.stdout
    assert "no_such_module_anywhere" in result.stderr
