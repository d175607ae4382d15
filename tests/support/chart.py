"""The chart as it is rendered: objects, and what is asked of them again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

import chart_goldens
from chart_goldens import LOCAL, SNAPSHOTS, Case

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]


def merged(base: Object, over: Object) -> Object:
    """Give values with others on top, as helm merges them."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def rendered(
    values: Object | None = None, *, kubernetes: str = "1.37.2", apis: tuple[str, ...] = (SNAPSHOTS,)
) -> list[Object]:
    """Render the chart with values on top of one loopfile pool; give the objects."""
    case = Case(merged(LOCAL, values or {}), kubernetes=kubernetes, apis=apis)
    return [each for each in yaml.safe_load_all(chart_goldens.template(case)) if each]


def of_kind(objects: list[Object], kind: str, name: str = "") -> list[Object]:
    """Give the objects of a kind, or the one of a name."""
    return [each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"])]


def one(objects: list[Object], kind: str, name: str = "") -> Object:
    (found,) = of_kind(objects, kind, name)
    return found


def pods(objects: list[Object]) -> Iterator[Object]:
    """Give the pod specs of the workloads."""
    for each in objects:
        if each["kind"] in ("DaemonSet", "Deployment"):
            yield each["spec"]["template"]["spec"]


def node_pod(objects: list[Object]) -> Object:
    """Give the pod spec of the DaemonSet."""
    found: Object = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    return found


def driver_of(pod: Object) -> Object:
    (found,) = (each for each in pod["containers"] if each["name"] == "katacsi")
    return found


def configuration(objects: list[Object]) -> Object:
    """Give the driver's configuration as it stands in the ConfigMap."""
    maps = [each for each in of_kind(objects, "ConfigMap") if "config.yaml" in each["data"]]
    (found,) = maps
    return yaml.safe_load(found["data"]["config.yaml"])
