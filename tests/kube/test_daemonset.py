"""The release as an operator has it: helm, the image of this tree, a DaemonSet with confined sidecars."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import chart_goldens
import image_archive
import kube_image
import kubetools
from kube_settings import IMAGE
from support.chart import driver_of
from support.kube_http import until
from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.kube_http import Object
    from support.kube_lab import Lab

SPACE = "release"
DRIVER = "release.katacsi.io"
NODE = "katacsi-node"
#: Beside a build of the image, on a machine that does something else, too.
pytestmark = pytest.mark.timeout(1500)


def values(folder: Path) -> Object:
    """Give the least that one writes, with names for images that no registry has."""
    sidecars = {
        name: {"image": f"katacsi.test/csi-{name}:1"} for name in ("provisioner", "snapshotter", "resizer")
    }
    # What is free is looked at less often in a cluster that lasts.
    sidecars["provisioner"]["capacityPollInterval"] = "5s"
    return {
        "driverName": DRIVER,
        "image": {"repository": "katacsi.test/katacsi", "tag": "1", "pullPolicy": "Never"},
        "pools": {"default": {"backend": "loopfile", "directory": str(folder / "pool"), "quota": "20Gi"}},
        "sidecars": sidecars,
        "storageClasses": {
            "katacsi": None,
            "katacsi-direct": None,
            "release": {"direct": "auto", "fsType": "xfs"},
            "release-direct": {"direct": "true"},
        },
        "snapshots": {"enabled": True, "class": {"name": "release"}},
        "config": {"log": {"level": "debug"}},
    }


def helm(lab: Lab, *words: str) -> str:
    return lab.run(str(kubetools.path("helm")), "--namespace", SPACE, *words)


def install(lab: Lab, verb: str, folder: Path, **over: Any) -> str:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values(folder) | over), "utf-8")
    words = (verb, "katacsi", str(chart_goldens.CHART), "--values", str(file), "--wait", "--timeout=240s")
    return helm(lab, *words)


@pytest.fixture(scope="module")
def release(lab: Lab) -> Iterator[Path]:
    """Install the chart with helm and wait until its pods are ready; give the folder of its pool."""
    try:
        image = image_archive.archive()
    except image_archive.Unavailable as reason:
        pytest.skip(f"no image: {reason}")
    folder = lab.files.folder / "nodes" / "release"
    folder.mkdir(parents=True)
    _import(lab, image)
    for name in ("csi-provisioner", "csi-snapshotter", "csi-resizer"):
        _import(lab, _image_of(kubetools.path(name), folder / f"{name}.tar"))
    for file in sorted(kubetools.path("crds").iterdir()):
        lab.api.apply(yaml.safe_load(file.read_text("utf-8")))
    until("the snapshot classes are served", lambda: "snapshot.storage.k8s.io/v1" in _versions(lab))
    kata = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kata"}}
    lab.api.apply(kata | {"handler": "kata"})
    lab.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    try:
        install(lab, "install", folder)
    except AssertionError as error:
        error.add_note(lab.run("kubectl", "--namespace", SPACE, "describe", "pods", check=False)[-6000:])
        error.add_note(_log(lab, "--all-containers", "--tail=40"))
        raise
    until("the kubelet has taken the driver", lambda: DRIVER in str(lab.api.get("CSINode", "node-1")))
    yield folder
    helm(lab, "uninstall", "katacsi", "--wait", "--timeout=120s")


def _versions(lab: Lab) -> str:
    return lab.run("kubectl", "api-versions")


def _image_of(program: Path, target: Path) -> Path:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(program, arcname=program.name)
    about = {"Entrypoint": [f"/{program.name}"]}
    kube_image.write_archive(target, f"katacsi.test/{program.name}:1", layer.getvalue(), about)
    return target


def _import(lab: Lab, archive: Path) -> None:
    ctr = (str(kubetools.path("ctr")), "--address=/run/containerd/containerd.sock", "--namespace=k8s.io")
    lab.run(*ctr, "images", "import", str(archive))


def _log(lab: Lab, *words: str) -> str:
    return lab.run("kubectl", "--namespace", SPACE, "logs", f"daemonset/{NODE}", *words, check=False)


def _running(lab: Lab, *names: str) -> None:
    def all_run() -> bool:
        return all((lab.api.get("Pod", name) or {})["status"].get("phase") == "Running" for name in names)

    try:
        until(f"{' and '.join(names)} run", all_run)
    except AssertionError as error:
        for name in names:
            error.add_note(f"{name}: {lab.api.events(name)}")
        error.add_note(_log(lab, "--container=katacsi", "--tail=40"))
        raise


@pytest.fixture
def volumes(lab: Lab, release: Path) -> Iterator[Path]:
    """Let a test make claims and pods; afterwards they go, and nothing of them is left in the pool."""
    yield release
    for kind in ("Pod", "PersistentVolumeClaim"):
        for each in lab.api.list(kind, "default"):
            if each["metadata"]["name"].startswith("release-"):
                lab.api.delete(kind, each["metadata"]["name"])
        until(f"no {kind} is left", lambda kind=kind: "release-" not in str(_names(lab, kind)))
    until("no volume is left", lambda: not _volumes(lab, release))


def _volumes(lab: Lab, release: Path) -> list[Path]:
    """Give the folders of the pool's volumes."""
    return list(lab.path(release / "pool" / "volumes").iterdir())


def _names(lab: Lab, kind: str) -> list[str]:
    return [each["metadata"]["name"] for each in lab.api.list(kind, "default")]


def test_the_sidecars_have_no_rights_on_the_node(lab: Lab, release: Path):
    """What the chart asks for is what runs: a privileged driver, and sidecars that see no process."""
    del release
    (found,) = [
        each
        for each in lab.api.list("Pod", SPACE)
        if each["metadata"]["labels"].get("app.kubernetes.io/component") == "node"
    ]
    assert all(each["ready"] for each in found["status"]["containerStatuses"])
    assert driver_of(found["spec"])["securityContext"]["privileged"]
    assert not found["spec"].get("hostPID")


def test_volumes_live_in_a_release(lab: Lab, volumes: Path):
    """A mounted, a direct and a raw volume reach their pods, one grows, and all outlive the driver's pod."""
    lab.api.apply(claim("release-host", "release", "300Mi"))
    lab.api.apply(claim("release-direct", "release-direct"))
    lab.api.apply(claim("release-raw", "release", volumeMode="Block"))
    lab.api.apply(pod("release-host", "release-host"))
    lab.api.apply(pod("release-direct", "release-direct", runtime="kata"))
    lab.api.apply(pod("release-raw", "release-raw", block=True))
    _running(lab, "release-host", "release-direct", "release-raw")
    lab.in_pod("release-host", "echo kept > /data/file; sync")
    assert lab.in_pod("release-raw", "test -b /dev/data && echo raw") == "raw"
    assert "Read-only" in lab.in_pod("release-direct", "touch /data/x 2>&1"), "the guard, where no guest is"
    wanted = {"spec": {"resources": {"requests": {"storage": "400Mi"}}}}
    lab.api.patch("PersistentVolumeClaim", "release-host", wanted)

    until("the claim has grown", lambda: _size(lab, "release-host") == "400Mi")
    _roll_over(lab)
    assert lab.in_pod("release-host", "cat /data/file") == "kept"
    lab.api.apply(pod("release-later", "release-host"))
    _running(lab, "release-later")
    assert lab.in_pod("release-later", "cat /data/file") == "kept"


def _stopped(lab: Lab, names: list[str]) -> None:
    """Let the first of an example's pods have had its volume."""
    if len(names) > 1:
        name = names.pop(0)
        _running(lab, name)
        lab.api.delete("Pod", name)
        until(f"{name} is gone", lambda: lab.api.get("Pod", name) is None)


def _size(lab: Lab, name: str) -> str:
    found = lab.api.get("PersistentVolumeClaim", name) or {}
    return str(found["status"].get("capacity", {}).get("storage", ""))


def _roll_over(lab: Lab) -> None:
    """Replace the driver's pod, as an upgrade does."""
    kubectl = ("kubectl", "--namespace", SPACE, "rollout")
    lab.run(*kubectl, "restart", f"daemonset/{NODE}")
    lab.run(*kubectl, "status", f"daemonset/{NODE}", "--timeout=120s")


def test_a_holder_outside_of_the_container_is_seen(lab: Lab, volumes: Path):
    """A process of the node that has a volume's device open keeps the next pod from it, and is named."""
    del volumes
    lab.api.apply(claim("release-held", "release", "300Mi"))
    lab.api.apply(pod("release-held", "release-held"))
    _running(lab, "release-held")
    volume = (lab.api.get("PersistentVolumeClaim", "release-held") or {})["spec"]["volumeName"]
    loops = lab.run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    device = next(line.split()[0] for line in loops.splitlines() if f"/{volume}/" in line)
    holder = lab.start("holder", "sh", "-c", f"exec 9<{device}; exec sleep 600")
    try:
        lab.api.delete("Pod", "release-held")
        until("the first pod is gone", lambda: lab.api.get("Pod", "release-held") is None)
        lab.api.apply(pod("release-next", "release-held"))
        refused = f"its device {device} is held by sleep"
        until("the next pod is told", lambda: refused in str(lab.api.events("release-next")), 90)
    except AssertionError as error:
        error.add_note(_of_nodes(lab))
        raise
    finally:
        holder.end_all()
    _running(lab, "release-next")


def _of_nodes(lab: Lab) -> str:
    """Give what the driver answered to the kubelet."""
    lines = _log(lab, "--container=katacsi", "--tail=-1").splitlines()
    return "\n".join(line for line in lines if '"answered"' in line and '"Node' in line)


EXAMPLES = sorted(
    path
    for path in (chart_goldens.TREE / "examples" / "kubernetes").glob("*.yaml")
    if not path.stem.startswith(("values-", "doctor", "runtime-class"))
)


def _example(path: Path) -> list[Object]:
    """Read an example, with the classes and the image that there are here."""
    text = path.read_text("utf-8").replace("lassName: katacsi", "lassName: release")
    return list(yaml.safe_load_all(text.replace("debian:stable-slim", IMAGE)))


@pytest.fixture
def snapshots(lab: Lab) -> None:
    """The cluster's snapshot-controller, where none runs yet."""
    if not lab.run("pgrep", "-f", "snapshot-controller", check=False):
        config = f"--kubeconfig={lab.files.kubeconfig('admin')}"
        flags = ("--enable-distributed-snapshotting", "--feature-gates=CSIVolumeGroupSnapshot=false")
        lab.start("snapshot-controller-release", kubetools.path("snapshot-controller"), config, *flags)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(lab: Lab, release: Path, snapshots: None, path: Path):
    """Every pod of an example runs with its volume, made by the release as a reader would have it."""
    del snapshots
    objects = _example(path)
    names = [each["metadata"]["name"] for each in objects if each["kind"] == "Pod"]
    try:
        for each in objects:
            if each["metadata"]["name"] in ("taken", "restored", "clone"):
                _stopped(lab, names)  # a pool without reflinks copies what no pod uses
            lab.api.apply(each | {"metadata": {**each["metadata"], "namespace": "default"}})
        if path.stem == "read-write-once-pod":
            _running(lab, "first")
            assert (lab.api.get("Pod", "second") or {})["status"]["phase"] == "Pending"
            lab.api.delete("Pod", "first")
            names.remove("first")
        _running(lab, *names)
        if path.stem == "expand":
            wanted = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
            lab.api.patch("PersistentVolumeClaim", "grows", wanted)
            until("the claim has grown", lambda: _size(lab, "grows") == "2Gi")
    finally:
        for kind in ("Pod", "VolumeSnapshot", "PersistentVolumeClaim"):
            for each in objects:
                if each["kind"] == kind:
                    lab.api.delete(kind, each["metadata"]["name"])
    until("no volume is left", lambda: not _volumes(lab, release))


def test_the_doctor_of_the_examples_sees_the_node(lab: Lab, release: Path):
    """The pod of doctor.yaml finds the driver's folders to be the node's own, and the node's processes."""
    text = (chart_goldens.TREE / "examples/kubernetes/doctor.yaml").read_text("utf-8")
    text = text.replace("katacsi:0.1.0", "katacsi.test/katacsi:1")
    item = yaml.safe_load(text.replace("/var/lib/katacsi/default", str(release / "pool")))
    item["metadata"]["namespace"] = SPACE
    item["spec"]["containers"][0]["args"].append("--output=json")
    lab.api.apply(item)

    def phase() -> str:
        return (lab.api.get("Pod", "katacsi-doctor", SPACE) or {})["status"].get("phase", "")

    try:
        until("doctor has looked", lambda: phase() in ("Succeeded", "Failed"), 60)
        said = lab.run("kubectl", "--namespace", SPACE, "logs", "katacsi-doctor")
        found = {(each["id"], each["verdict"]) for each in json.loads(said)["findings"]}
    finally:
        lab.api.delete("Pod", "katacsi-doctor", SPACE, force=True)
    for check in ("node-propagation", "records-root", "node-tools", "pool-usable", "pool-room"):
        assert (check, "ok") in found, said
        assert (check, "failure") not in found


def test_an_upgrade_keeps_what_runs(lab: Lab, volumes: Path):
    """`helm upgrade` with another configuration rolls the driver over; pods and their data stay."""
    lab.api.apply(claim("release-kept", "release", "300Mi"))
    lab.api.apply(pod("release-kept", "release-kept"))
    _running(lab, "release-kept")
    lab.in_pod("release-kept", "echo kept > /data/file; sync")
    install(lab, "upgrade", volumes, config={"log": {"level": "info"}, "timeouts": {"mkfs": 300}})
    assert lab.in_pod("release-kept", "cat /data/file") == "kept"
    (found,) = [each for each in lab.api.list("ConfigMap", SPACE) if "config.yaml" in each.get("data", {})]
    assert "mkfs: 300" in found["data"]["config.yaml"]
