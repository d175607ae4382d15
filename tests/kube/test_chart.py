"""The chart before a real API server: every object is taken, and its policies refuse what they are for."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import chart_goldens
import kubetools
from chart_goldens import LVM, NETWORK, SNAPSHOTS, Case
from support.chart import merged
from support.kube_http import ApiError, path_of, until
from support.kube_objects import claim

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.kube_http import Api, Object
    from support.kube_lab import Lab

SPACE = "chart"
#: Not the name of the driver that the other tests have.
DRIVER = "chart.katacsi.io"
KEY = f"topology.{DRIVER}/node"
VALUES = merged(chart_goldens.LOCAL, {"driverName": DRIVER})
SHAPES = {
    "local": {},
    "lvm": LVM,
    "sidecars": {"kubelet": {"registration": "registrar"}, "liveness": "sidecar"},
    "network": NETWORK,
    "looking": {"networkPolicy": {"enabled": True}, "priorityClass": {"create": True}},
}


def rendered(values: Object) -> list[Object]:
    case = Case(merged(VALUES, values), apis=(SNAPSHOTS,))
    text = chart_goldens.template(case).replace("namespace: katacsi", f"namespace: {SPACE}")
    text = text.replace("serviceaccount:katacsi:", f"serviceaccount:{SPACE}:")
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.fixture(scope="module")
def space(lab: Lab) -> Lab:
    """The cluster with the snapshot CRDs and an empty namespace for the chart."""
    lab.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    for file in sorted(kubetools.path("crds").iterdir()):
        lab.api.apply(yaml.safe_load(file.read_text("utf-8")))
    until("the snapshot classes are served", lambda: _serves(lab.api, "VolumeSnapshotClass"))
    until("the default account is there", lambda: lab.api.get("ServiceAccount", "default", SPACE))
    return lab


def _serves(api: Api, kind: str) -> bool:
    try:
        api.list(kind)
    except ApiError as error:
        if error.code not in (404, 429):  # 429: its storage is being set up
            raise
        return False
    return True


@pytest.mark.parametrize("shape", SHAPES)
def test_the_api_server_takes_every_object(space: Lab, shape: str):
    """No field is unknown to the API server and no value refused, expressions of policies included."""
    for item in rendered(SHAPES[shape]):
        metadata = item["metadata"]
        path = path_of(item["kind"], metadata["name"], metadata.get("namespace", ""))
        query = "?dryRun=All&fieldValidation=Strict&fieldManager=tests&force=true"
        try:
            space.api.request("PATCH", path + query, item, kind="application/apply-patch+yaml")
        except ApiError as error:
            pytest.fail(f"{item['kind']} {metadata['name']}: {error}")


EXAMPLES = sorted((chart_goldens.TREE / "examples" / "kubernetes").glob("*.yaml"))


@pytest.mark.parametrize(
    "path", [each for each in EXAMPLES if "values-" not in each.name], ids=lambda path: path.stem
)
def test_the_api_server_takes_every_example(space: Lab, path: Path):
    """No field of examples/kubernetes is unknown to the API server, and no value refused."""
    for item in yaml.safe_load_all(path.read_text("utf-8")):
        namespace = "" if item["kind"] == "RuntimeClass" else SPACE
        where = path_of(item["kind"], item["metadata"]["name"], namespace)
        query = "?dryRun=All&fieldValidation=Strict&fieldManager=tests&force=true"
        if item["kind"] == "Pod":
            for looked_up in ("runtimeClassName", "serviceAccountName"):  # there is none
                item["spec"].pop(looked_up, None)
        space.api.request("PATCH", where + query, item, kind="application/apply-patch+yaml")


# -- a node's account ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(space: Lab) -> Iterator[Lab]:
    """The accounts, the rules, the classes and the policies of a release, without its pods."""
    without = ("DaemonSet", "ConfigMap", "VolumeSnapshotClass")
    items = [item for item in rendered({}) if item["kind"] not in without]
    for item in items:
        space.api.apply(item)
    # A policy is in force a moment after it was made.
    probe = copy.deepcopy(volume("probe", "another"))
    account = on_node(space, "node-1")
    until("the policy is in force", lambda: _refused(account, probe))
    yield space
    for item in items:
        if item["kind"] != "CSIDriver":  # the other tests' driver has this name, too
            metadata = item["metadata"]
            space.api.delete(item["kind"], metadata["name"], metadata.get("namespace", SPACE))


def on_node(lab: Lab, node: str) -> Api:
    """Give the API as the pod of a node has it: by a token that is bound to the pod."""
    name = f"of-{node}"
    if lab.api.get("Pod", name, SPACE) is None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": SPACE},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "katacsi-node",
                "containers": [{"name": "main", "image": "none.test/none:1"}],
            },
        }
        lab.api.apply(pod)
    made: Any = lab.api.get("Pod", name, SPACE)
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": made["metadata"]["uid"]}
    answer = lab.api.request(
        "POST",
        f"{path_of('ServiceAccount', 'katacsi-node', SPACE)}/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600, "boundObjectRef": bound},
        },
    )
    return lab.api_as(answer["status"]["token"])


def volume(name: str, node: str, **spec: Any) -> Object:
    """Give a PersistentVolume of the driver as csi-provisioner makes it."""
    term = {"matchExpressions": [{"key": KEY, "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"]},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "katacsi",
            "csi": {"driver": DRIVER, "volumeHandle": f"v1:default:00000000:{name}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }
        | spec,
    }


def _create(api: Api, item: Object) -> None:
    api.request("POST", path_of("PersistentVolume", "", ""), item)


def _refused(api: Api, item: Object) -> str:
    """Try to create a volume; give the refusal, empty where there is none."""
    try:
        api.request("POST", path_of("PersistentVolume", "", "") + "?dryRun=All", item)
    except ApiError as error:
        return str(error)
    return ""


@pytest.fixture
def foreign(release: Lab):
    """A volume of another node."""
    item = volume("foreign", "node-2")
    item["metadata"]["annotations"] = {"kept": "yes"}
    _create(release.api, item)
    yield "foreign"
    _removed(release, "foreign")


def _removed(release: Lab, name: str) -> None:
    if release.api.get("PersistentVolume", name):
        release.api.patch("PersistentVolume", name, {"metadata": {"finalizers": None}})
        release.api.delete("PersistentVolume", name)


def test_a_node_writes_its_own_volumes(release: Lab):
    """The account makes, grows and deletes a volume of its node, as csi-provisioner and csi-resizer do."""
    account = on_node(release, "node-1")
    _create(account, volume("own", "node-1"))
    try:
        account.patch("PersistentVolume", "own", {"spec": {"capacity": {"storage": "2Gi"}}})
        account.patch("PersistentVolume", "own", {"metadata": {"finalizers": None}})
        account.delete("PersistentVolume", "own")
        until("the volume is gone", lambda: release.api.get("PersistentVolume", "own") is None)
    finally:
        _removed(release, "own")


@pytest.mark.gate("a-node-writes-its-own-volumes-alone")
@pytest.mark.parametrize(
    "wrong",
    [
        {"csi": {"driver": "other.example.org", "volumeHandle": "x"}},
        {"csi": None, "hostPath": {"path": "/etc"}},
        {"nodeAffinity": None},
        {
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": KEY, "operator": "In", "values": ["node-1", "node-2"]}]}
                    ]
                }
            }
        },
        {
            "nodeAffinity": {
                "required": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["node-1"]}]}
                    ]
                }
            }
        },
    ],
    ids=["another-driver", "a-folder-of-the-node", "anywhere", "two-nodes", "another-key"],
)
def test_a_node_makes_no_other_volumes(release: Lab, wrong: Object):
    """A volume of another driver, of a folder of the host, or of more nodes than its own is refused."""
    item = volume("wrong", "node-1", **wrong)
    item["spec"] = {key: value for key, value in item["spec"].items() if value is not None}
    said = _refused(on_node(release, "node-1"), item)
    assert "403" in said
    assert 'the account of node "node-1" may only write PersistentVolumes of chart.katacsi.io' in said
    assert not _refused(release.api, item), "an administrator may"


@pytest.mark.gate("a-node-writes-its-own-volumes-alone")
@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"finalizers": None}},
        {"metadata": {"labels": {"x": "y"}}},
        {"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other.example.org"}}},
        {"metadata": {"annotations": {"kept": None}}},
        {
            "metadata": {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "0" * 36}
                ]
            }
        },
        {"spec": {"mountOptions": ["exec"]}},
        {"spec": {"persistentVolumeReclaimPolicy": "Retain"}},
        {"spec": {"claimRef": {"namespace": "default", "name": "mine"}}},
        {"spec": {"capacity": {"storage": "1Mi"}}},
    ],
    ids=[
        "finalizers",
        "labels",
        "annotation",
        "annotation-gone",
        "owner",
        "options",
        "policy",
        "claim",
        "shrink",
    ],
)
def test_a_node_changes_no_volume_of_another(release: Lab, foreign: str, change: Object):
    """The account of one node cannot release, keep, take or shrink the volume of another."""
    with pytest.raises(ApiError, match="node-1"):
        on_node(release, "node-1").patch("PersistentVolume", foreign, change)


@pytest.mark.gate("a-node-writes-its-own-volumes-alone")
def test_a_node_deletes_no_volume_of_another(release: Lab, foreign: str):
    """Whoever has the token of one node cannot delete the volumes of all nodes."""
    with pytest.raises(ApiError, match=r'403(.|\n)*account of node "node-1"'):
        on_node(release, "node-1").delete("PersistentVolume", foreign)
    on_node(release, "node-2").delete("PersistentVolume", foreign)


def test_the_resizer_of_one_node_grows_the_volumes_of_all(release: Lab, foreign: str):
    """csi-resizer is leader-elected among the nodes: the size of another node's volume may grow."""
    account = on_node(release, "node-1")
    marks = {"metadata": {"annotations": {"volume.alpha.kubernetes.io/pre-resize-capacity": "1Gi"}}}
    account.patch("PersistentVolume", foreign, marks | {"spec": {"capacity": {"storage": "2Gi"}}})
    grown = release.api.get("PersistentVolume", foreign)
    assert grown
    assert grown["spec"]["capacity"]["storage"] == "2Gi"


def test_a_token_without_a_pod_writes_nothing(release: Lab):
    """A token that somebody asked for by hand names no node, and so has none of its own."""
    token = release.api.token_of("katacsi-node", SPACE)
    said = _refused(release.api_as(token), volume("own", "node-1"))
    assert 'the account of node ""' in said


# -- subPath ---------------------------------------------------------------------------------------------


def _warnings(lab: Lab, mount: Object, name: str) -> str:
    """Make a pod, as a trial, that mounts a claim so; give what kubectl warns of."""
    item = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "uses", "namespace": SPACE},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "none.test/none:1",
                    "volumeMounts": [{"name": "data", "mountPath": "/data", **mount}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
        },
    }
    file = lab.files.folder / "uses.yaml"
    file.write_text(yaml.safe_dump(item), "utf-8")
    return lab.run("kubectl", "create", "--dry-run=server", "--filename", str(file))


@pytest.mark.parametrize(
    ("mount", "name", "warned"),
    [
        ({"subPath": "part"}, "direct", True),
        ({"subPathExpr": "$(HOME)"}, "direct-retain", True),
        ({}, "direct", False),
        ({"subPath": "part"}, "auto", False),
    ],
)
def test_a_subpath_of_a_direct_volume_is_warned_of(release: Lab, mount, name, warned):
    """Who makes a pod that mounts a part of a direct volume is told at once; other pods are left alone."""
    classes = {"direct": "katacsi-direct", "direct-retain": "katacsi-direct-retain", "auto": "katacsi"}
    for own, storage_class in classes.items():
        item = claim(own, storage_class)
        item["metadata"]["namespace"] = SPACE
        release.api.apply(item)

    def told() -> bool:
        said = _warnings(release, mount, name)
        assert "created" in said, "it is a warning, no refusal"
        return "cannot be mounted by subPath" in said

    if warned:
        # The API server sees claims by a watch of its own.
        until("the warning is there", told, 30)
    else:
        assert not told()


# -- two releases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "whose"),
    [
        ({}, "not installed by helm"),
        (
            {"meta.helm.sh/release-name": "first", "meta.helm.sh/release-namespace": "storage"},
            "of the release first in namespace storage",
        ),
    ],
    ids=["by-hand", "another-release"],
)
def test_a_second_release_of_one_name_is_refused(release: Lab, annotations: Object, whose: str):
    """helm says whose driver has the name already, and what to do, before it makes anything."""
    release.api.patch("CSIDriver", DRIVER, {"metadata": {"annotations": annotations or None}})
    values = release.files.folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES), "utf-8")
    argv = [str(kubetools.path("helm")), "install", "second", str(chart_goldens.CHART), "--dry-run=server"]
    said = release.run(*argv, "--values", str(values), check=False)
    assert f"driverName: the cluster has a driver {DRIVER} already ({whose})" in said
    assert "choose another name here" in said
