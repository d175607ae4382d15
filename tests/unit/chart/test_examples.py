"""examples/kubernetes is true: the chart takes the values, and the objects name what it makes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import chart_goldens
from chart_goldens import SNAPSHOTS, TREE, Case
from katacsi import settings
from katacsi.app import pools_of
from katacsi.backends import registry
from katacsi.volumes import parameters
from support.chart import configuration, of_kind, rendered

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = TREE / "examples" / "kubernetes"
VALUES = sorted(FOLDER.glob("values-*.yaml"))
OBJECTS = sorted(set(FOLDER.glob("*.yaml")) - set(VALUES))


def named(path):
    return path.stem


def objects_of(path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def claims_of(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give the specs of all claims, those that pods have made for them included."""
    for each in of_kind(objects, "PersistentVolumeClaim"):
        yield each["spec"]
    for pod in of_kind(objects, "Pod"):
        for volume in pod["spec"]["volumes"]:
            if "ephemeral" in volume:
                yield volume["ephemeral"]["volumeClaimTemplate"]["spec"]


@pytest.mark.parametrize("path", VALUES, ids=named)
def test_the_chart_takes_the_values(path):
    """helm renders them, the driver would start with them, and CreateVolume take their classes."""
    case = Case(yaml.safe_load(path.read_text("utf-8")), apis=(SNAPSHOTS,))
    objects = [each for each in yaml.safe_load_all(chart_goldens.template(case)) if each]
    loaded = settings.parse(configuration(objects), where=path.name)
    backends = {pool.name: pool.backend_name for pool in pools_of(loaded, "node-1")}
    for each in of_kind(objects, "StorageClass"):
        chosen = parameters.parse(each["parameters"])
        backend = backends[chosen.pool or (next(iter(backends)) if len(backends) == 1 else "default")]
        assert not chosen.backend or chosen.backend_name == backend
        assert set(chosen.backend) <= set(registry.load(backend).parameters)


@pytest.mark.parametrize("path", OBJECTS, ids=named)
def test_the_objects_name_what_there_is(path):
    """Classes are the chart's, claims, snapshots and sources are of the same file, annotations legal."""
    objects, release = objects_of(path), rendered()
    classes = {each["metadata"]["name"] for each in of_kind(release, "StorageClass")}
    claims = {each["metadata"]["name"]: each for each in of_kind(objects, "PersistentVolumeClaim")}
    for claim in claims_of(objects):
        assert claim["storageClassName"] in classes
        source = claim.get("dataSource")
        assert source is None or of_kind(objects, source["kind"], source["name"])
    for snapshot in of_kind(objects, "VolumeSnapshot"):
        assert of_kind(release, "VolumeSnapshotClass", snapshot["spec"]["volumeSnapshotClassName"])
        assert snapshot["spec"]["source"]["persistentVolumeClaimName"] in claims
    used = set()
    for pod in of_kind(objects, "Pod"):
        assert pod["spec"].get("runtimeClassName", "kata") == "kata", "as in runtime-class.yaml"
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            for mount in container.get("volumeMounts", []) + container.get("volumeDevices", []):
                used |= {volumes[mount["name"]].get("persistentVolumeClaim", {}).get("claimName", "")}
    assert used - {""} == set(claims), "a claim without a pod is never bound"
    for claim in claims.values():
        for key, value in claim["metadata"].get("annotations", {}).items():
            assert key == parameters.DIRECT
            assert value in ("true", "false")


def test_direct_claims_have_kata_pods():
    """What is direct for certain is used by pods of Kata alone, or the driver would refuse the pod."""
    for path in OBJECTS:
        objects = objects_of(path)
        direct = {
            each["metadata"]["name"]
            for each in of_kind(objects, "PersistentVolumeClaim")
            if each["spec"]["storageClassName"].startswith("katacsi-direct")
            or each["metadata"].get("annotations", {}).get(parameters.DIRECT) == "true"
        }
        for pod in of_kind(objects, "Pod"):
            named = {
                each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["spec"]["volumes"]
            }
            assert not named & direct or "runtimeClassName" in pod["spec"], path.name


def test_the_list_is_whole():
    """README.md leads to each file."""
    listed = set(re.findall(r"\]\((\S+\.yaml)\)", (FOLDER / "README.md").read_text("utf-8")))
    assert listed == {path.name for path in (*VALUES, *OBJECTS)}
