#!/usr/bin/env python3
"""Write charts/katacsi/values.schema.json; with --check, say if it is up to date.

    .venv/bin/python tools/chart_schema.py
    .venv/bin/python tools/chart_schema.py --check

It is values.schema.in.yaml with parts of the driver's own schema in the places that say `$driver`, so that a
release is refused for what the driver would refuse, before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from katacsi.backends import registry
from katacsi.cli import schema as schemas
from katacsi.volumes import parameters

TREE = Path(__file__).resolve().parent.parent
CHART = TREE / "charts" / "katacsi"
SOURCE = CHART / "values.schema.in.yaml"
TARGET = CHART / "values.schema.json"

#: What the chart sets itself, from values of its own.
OF_THE_CHART = (
    "driver_name",
    "pools",
    "direct_volume_root",
    "state_directory",
    "host_proc",
    "kubelet",
    "health",
    "metrics",
)

OWN_PARAMETERS = (
    parameters.POOL,
    parameters.DIRECT,
    parameters.FS_GROUP_CHANGE_POLICY,
    parameters.MKFS_OPTIONS,
)
#: Class keys that have a value of their own in the chart.
OF_A_CLASS = (parameters.POOL, parameters.DIRECT)


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare; return the exit status: 1 for a schema that is out of date."""
    parser = argparse.ArgumentParser(description="Write the chart's values.schema.json.")
    parser.add_argument("--check", action="store_true", help="only compare; fail on a difference")
    check = parser.parse_args(arguments).check
    wanted = text()
    if check:
        if TARGET.exists() and TARGET.read_text("utf-8") == wanted:
            return 0
        print(f"{TARGET.relative_to(TREE)} is out of date; run tools/chart_schema.py", file=sys.stderr)
        return 1
    TARGET.write_text(wanted, "utf-8")
    print(f"wrote {TARGET.relative_to(TREE)}")
    return 0


def text() -> str:
    """Compose the schema."""
    driver = schemas.compose()
    source = yaml.safe_load(SOURCE.read_text("utf-8"))
    parts = {
        "driver_name": driver["properties"]["driver_name"],
        "pools": _pools(driver),
        "settings": _settings(driver),
        "parameters": _parameters(),
    }
    composed = _filled(source, parts)
    composed["$defs"] = _used(composed, composed["$defs"] | driver["$defs"])
    return json.dumps(_terse(composed), indent=1, ensure_ascii=False) + "\n"


def _used(composed: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Keep the definitions that something refers to, in their order."""
    found: set[str] = set()
    ask: list[Any] = [{key: said for key, said in composed.items() if key != "$defs"}]
    while ask:
        names = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(ask.pop()))) - found
        found |= names
        ask += [definitions[name] for name in names]
    return {name: said for name, said in definitions.items() if name in found}


def _filled(part: Any, parts: dict[str, Any]) -> Any:  # noqa: ANN401  # a piece of JSON
    if isinstance(part, dict):
        if "$driver" in part:
            return parts[part["$driver"]]
        return {key: _filled(value, parts) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, parts) for value in part]
    return part


def _terse(part: Any, *, names: bool = False) -> Any:  # noqa: ANN401  # a piece of JSON
    """Leave out titles, which only repeat the keys; below `names` a key is a setting's name.

    A path in a container's configuration is one from the root.
    """
    if isinstance(part, dict):
        if part.get("format") == "path" and not names:
            part = {**part, "pattern": "^/"}
        return {
            key: _terse(value, names=key in ("properties", "$defs") and not names)
            for key, value in part.items()
            if names or key != "title" or not isinstance(value, str)
        }
    if isinstance(part, list):
        return [_terse(value) for value in part]
    return part


def _backends() -> list[str]:
    return [entry.name for entry in registry.installed() if entry.distribution == "katacsi"]


def _pools(driver: dict[str, Any]) -> dict[str, Any]:
    """Let each pool be what its backend says: by conditions, whose refusals name the key that is wrong."""
    return {
        "description": driver["properties"]["pools"]["description"],
        "type": "object",
        "propertyNames": driver["properties"]["pools"]["propertyNames"],
        "additionalProperties": {
            "type": "object",
            "required": ["backend"],
            "properties": {"backend": {"type": "string", "minLength": 1}},
            "allOf": [
                {
                    "if": {"properties": {"backend": {"const": name}}, "required": ["backend"]},
                    "then": {"$ref": f"#/$defs/{name}-pool"},
                }
                for name in _backends()
            ],
        },
    }


def _settings(driver: dict[str, Any]) -> dict[str, Any]:
    left = {key: said for key, said in driver["properties"].items() if key not in OF_THE_CHART}
    return {
        "description": "Other settings of the driver.",
        "type": "object",
        "additionalProperties": False,
        "properties": left,
    }


def _parameters() -> dict[str, Any]:
    """Allow the keys that CreateVolume knows; those of another backend's prefix are that backend's matter."""
    backends = _backends()
    known = [key for key in OWN_PARAMETERS if key not in OF_A_CLASS]
    for name in backends:
        known += [f"{name}.katacsi.io/{key}" for key in registry.load(name).parameters]
    others = {
        "pattern": r"^[a-z][a-z0-9-]*\.katacsi\.io/",
        "not": {"pattern": rf"^({'|'.join(backends)})\.katacsi\.io/"},
    }
    return {
        "type": "object",
        "propertyNames": {"anyOf": [{"enum": known}, others]},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    }


if __name__ == "__main__":
    sys.exit(main())
