"""The JSON Schema of the configuration: katacsi's settings, with each pool one of the installed backends'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from katacsi.backends import registry
from katacsi.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: As `settings.parse` has it.
_POOL_NAME = "^[a-z][a-z0-9-]{0,30}$"


def compose() -> dict[str, Any]:
    """Compose the schema from the settings and the backends that are installed here.

    Raises:
        SettingsError: a backend cannot be imported.
    """
    schema = Settings.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    backends = [entry.name for entry in registry.installed()]
    for name in backends:
        definitions |= _of_backend(name, registry.load(name).Settings)
    pools = schema["properties"]["pools"]
    pools["propertyNames"] = {"pattern": _POOL_NAME}
    pools["additionalProperties"] = {"oneOf": [{"$ref": f"#/$defs/{_key(name)}"} for name in backends]}
    return {"$schema": _DIALECT, **schema, "title": "The configuration of katacsi"}


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Give each setting of a composed schema: its dotted key, what the schema says, whether it is required.

    The keys of a backend's pools are given as `pools.<backend>.<key>`.
    """
    yield from _keys(schema, schema, "")


def _key(backend: str) -> str:
    return f"{backend}-pool"


def _of_backend(name: str, settings: type[BaseModel]) -> dict[str, Any]:
    """Give the definitions of a backend's pools; prefixed, as two backends may have a class of one name."""
    pool = settings.model_json_schema(ref_template=f"#/$defs/{_key(name)}.{{model}}")
    inner = {f"{_key(name)}.{key}": value for key, value in pool.pop("$defs", {}).items()}
    backend = {"const": name, "description": f"A pool of the backend {name}.", "title": "Backend"}
    pool["properties"] = {"backend": backend, **pool.get("properties", {})}
    pool["required"] = ["backend", *pool.get("required", [])]
    return {_key(name): pool, **inner}


def _keys(
    schema: dict[str, Any], part: dict[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    required = part.get("required", [])
    for name, said in part.get("properties", {}).items():
        key = f"{prefix}{name}"
        inner = _resolved(schema, said)
        if key == "pools":
            yield key, said, False
            for choice in said["additionalProperties"]["oneOf"]:
                pool = _resolved(schema, choice)
                backend = pool["properties"]["backend"]["const"]
                yield from _keys(schema, pool, f"pools.<{backend}>.")
        elif "properties" in inner:
            yield from _keys(schema, inner, f"{key}.")
        else:
            yield key, {**inner, **said}, name in required


def _resolved(schema: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    reference = said.get("$ref")
    if reference is None:
        return said
    found: dict[str, Any] = schema["$defs"][reference.removeprefix("#/$defs/")]
    return found
