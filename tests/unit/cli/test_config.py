"""`katacsi config check` and `katacsi config schema`."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pydantic
import pytest

from katacsi.backends.api import Scope
from katacsi.settings import Settings


@pytest.fixture
def schema(run):
    result = run("config", "schema")
    assert result.exit_code == 0
    return json.loads(result.output)


def test_check_takes_a_good_configuration(run, tmp_path):
    """A configuration that can be used is confirmed, with its pools."""
    file = tmp_path / "c.yaml"
    file.write_text(f"pools:\n  fast: {{backend: loopfile, directory: {tmp_path}}}\n")
    result = run("config", "check", "--config", file, "--output", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["pools"] == [{"pool": "fast", "backend": "loopfile", "scope": "local"}]
    assert not list(tmp_path.glob("pool.json")), "a check opens no pool"


ANOTHER_KUBELET = """
kubelet: {registration_socket: /data/kubelet/plugins_registry/x.sock}
pools: {p: {backend: loopfile, directory: /srv/../data/kubelet}}
"""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("pools: {}", "pools: there is none"),
        ("pools: {p: {backend: loopfil, directory: /x}}", "'loopfil' is not installed"),
        ("pools: {p: {backend: loopfile}}", "pools.p: directory"),
        ("pools: {p: {backend: loopfile, directory: x}}", "pools.p: directory"),
        ("pools: {p: {backend: loopfile, directory: /x, quoat: 1Gi}}", "quoat: unknown key"),
        ("pools: {P: {backend: loopfile, directory: /x}}", "pools.P"),
        ("kube: {timeout: 0}\npools: {p: {backend: loopfile, directory: /x}}", "kube.timeout"),
        (
            "pools: {p: {backend: loopfile, directory: /var/lib/kubelet/p}}",
            "pools.p.directory: /var/lib/kubelet/p lies in the kubelet's own folder (/var/lib/kubelet)",
        ),
        (
            ANOTHER_KUBELET,
            "choose a folder outside, such as /var/lib/katacsi/p",
        ),
        ("- a list", "has to be a mapping"),
        ("a: [", "not YAML"),
    ],
    ids=[
        "no pool",
        "backend",
        "missing",
        "relative",
        "mistyped",
        "pool name",
        "kube",
        "kubelet",
        "another kubelet",
        "list",
        "no yaml",
    ],
)
def test_check_refuses_what_serve_would_refuse(run, tmp_path, text, named):
    """A configuration that `serve` cannot use is exit code 2, and the key is named."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    result = run("config", "check", "--config", file)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output


def objects(part):
    """Give every object schema in a schema."""
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield part
        for inner in part.values():
            yield from objects(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from objects(inner)


def described(schema, said):
    """Tell whether there is a sentence, at the key or at the section that it leads to."""
    section = schema["$defs"].get(said.get("$ref", "").removeprefix("#/$defs/"), {})
    return said.get("description") or section.get("description")


def test_every_key_of_the_schema_is_described(schema):
    """There is no setting, of katacsi or of a backend, without a sentence about it."""
    bare = [
        name
        for part in objects(schema)
        for name, said in part["properties"].items()
        if not described(schema, said)
    ]
    assert bare == []


def test_unknown_keys_are_outside_the_schema(schema):
    """A mistyped key fails the schema's check too: every object of it is closed."""
    assert [
        part.get("title") for part in objects(schema) if part.get("additionalProperties") is not False
    ] == []


def test_the_schema_has_every_setting(schema):
    """The schema's keys are those of the settings."""
    assert set(schema["properties"]) == set(Settings.model_fields)


def test_a_pool_is_one_of_the_installed_backends(schema):
    """The schema of a pool is chosen by its `backend` key, and holds that backend's own settings."""
    choices = schema["properties"]["pools"]["additionalProperties"]["oneOf"]
    pools = [schema["$defs"][choice["$ref"].removeprefix("#/$defs/")] for choice in choices]
    loopfile = next(pool for pool in pools if pool["properties"]["backend"]["const"] == "loopfile")
    assert {"backend", "directory"} <= set(loopfile["required"])
    assert "require_mount" in loopfile["properties"]


def test_backends_with_classes_of_one_name_do_not_mix(run, monkeypatch):
    """Two backends may each have a settings class and an enum of the same name; each keeps its own."""
    monkeypatch.setitem(sys.modules, "foreign_backends", _foreign())
    points = [
        EntryPoint(name, f"foreign_backends:{name}", "katacsi.backends") for name in ("first", "second")
    ]
    monkeypatch.setattr(
        "katacsi.backends.registry.entry_points",
        lambda *, group, name=None: [point for point in points if name in (None, point.name)],
    )
    schema = json.loads(run("config", "schema").stdout)
    seen = {}
    for choice in schema["properties"]["pools"]["additionalProperties"]["oneOf"]:
        pool = schema["$defs"][choice["$ref"].removeprefix("#/$defs/")]
        inner = schema["$defs"][pool["properties"]["inner"]["$ref"].removeprefix("#/$defs/")]
        seen[pool["properties"]["backend"]["const"]] = set(inner["properties"])
    assert seen == {"first": {"only_first"}, "second": {"only_second"}}


def _foreign() -> ModuleType:
    module = ModuleType("foreign_backends")
    for name in ("first", "second"):
        closed = pydantic.ConfigDict(extra="forbid")
        inner = pydantic.create_model("Inner", __config__=closed, **{f"only_{name}": (int, 1)})
        described = pydantic.Field(description="What is inside.")
        settings = pydantic.create_model("Pool", __config__=closed, inner=(inner, described))

        class Factory(SimpleNamespace):
            def __call__(self, *_):
                raise AssertionError("a schema needs no pool")

        setattr(module, name, Factory(Settings=settings, scope=Scope.LOCAL, parameters={}))
    return module


def test_the_table_has_a_row_for_each_key(run):
    """For people the schema is a list of keys; a key of a section or a backend is named by its path."""
    rows = run("config", "schema", "--output", "table").stdout.splitlines()
    keys = {row.split()[0] for row in rows}
    assert {"KEY", "driver_name", "kube.enabled", "log.level", "pools.<loopfile>.directory"} <= keys
