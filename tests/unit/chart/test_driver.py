"""What the chart gives the driver: a configuration that it takes, and a node that it can see."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
import yaml

import chart_goldens
import kube_programs
from chart_goldens import CHART, LVM, NETWORK
from katacsi import settings
from katacsi.app import pools_of
from katacsi.backends import registry
from katacsi.directvolume import bundles
from katacsi.directvolume.sandboxes import Sandboxes
from katacsi.kube import access
from katacsi.metrics import Metrics, NodeWatchMetrics
from katacsi.volumes import parameters
from support.chart import configuration, driver_of, merged, node_pod, of_kind, one, pods, rendered

LOOKING = {
    "metrics": {
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    }
}
SIDECARS = {"kubelet": {"registration": "registrar"}, "liveness": "sidecar"}
PRIVILEGED = {"privileged": True, "readOnlyRootFilesystem": True}
SHAPES = [
    pytest.param({}, id="local"),
    pytest.param(LVM, id="lvm"),
    pytest.param(SIDECARS, id="sidecars"),
    pytest.param(NETWORK, id="network"),
    pytest.param({"watchNodes": {"enabled": False}}, id="no-watch-nodes"),
    pytest.param(merged(NETWORK, SIDECARS), id="network-sidecars"),
]


def paths(container):
    """The mounts of a container by the path that they have there."""
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def sources(pod):
    return {
        volume["name"]: volume.get("hostPath", {}).get("path")
        for volume in pod["volumes"]
        if "hostPath" in volume
    }


@pytest.mark.parametrize(
    "values",
    [
        {},
        # The driver looks at the node's LVM when it only makes such a pool.
        merged(LVM, {"pools": {"fast": {"exec": "container"}}}),
        SIDECARS,
        {"kubelet": {"root": "/data/kubelet"}},
        {"metrics": {"inventory": "Loopback"}},
        {"metrics": {"inventory": "Anywhere"}},
        {"metrics": {"enabled": False}, "config": {"log": {"level": "debug"}, "timeouts": {"drain": 5}}},
    ],
    ids=["local", "lvm", "sidecars", "root", "loopback", "anywhere", "config"],
)
def test_the_driver_takes_the_configuration(values):
    """`katacsi serve` would start with the ConfigMap of each local shape, and have its pools."""
    loaded = settings.parse(configuration(rendered(values)), where="ConfigMap")
    wanted = merged(chart_goldens.LOCAL, values)
    assert [pool.name for pool in pools_of(loaded, "node-1")] == sorted(wanted["pools"])


def test_the_schema_knows_each_setting_that_the_chart_does_not_make():
    """A setting of the driver is either made by the chart or can be written under `config`."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text("utf-8"))
    free = set(schema["properties"]["config"]["properties"])
    made = set(configuration(rendered())) | {"state_directory"}
    assert free | made == set(settings.Settings.model_fields)


@pytest.mark.gate("registrar-path-equals-host-path")
@pytest.mark.parametrize("values", [{}, {"kubelet": {"root": "/data/kubelet"}}, SIDECARS], ids=str)
def test_the_kubelet_is_told_the_path_at_which_the_socket_is(values):
    """The socket that is registered lies, by the node's paths, where the driver listens."""
    objects = rendered(values)
    pod = node_pod(objects)
    container = driver_of(pod)
    (endpoint,) = (word for word in container["args"] if word.startswith("--endpoint="))
    listening = PurePosixPath(endpoint.removeprefix("--endpoint=unix://"))
    folder = next(parent for parent in listening.parents if str(parent) in paths(container))
    on_the_node = sources(pod)[paths(container)[str(folder)]["name"]] / listening.relative_to(folder)
    if values is SIDECARS:
        (registrar,) = (each for each in pod["containers"] if each["name"] == "node-driver-registrar")
        said = re.search(r"--kubelet-registration-path=(\S+)", " ".join(registrar["args"]))[1]
        assert "kubelet" not in configuration(objects), "two would answer for one name"
    else:
        kubelet = configuration(objects)["kubelet"]
        said = kubelet["endpoint"]
        socket = PurePosixPath(kubelet["registration_socket"])
        assert sources(pod)[paths(container)[str(socket.parent)]["name"]] == str(socket.parent)
    assert str(on_the_node) == said
    assert sources(pod)["socket"] == str(listening.parent), "the sidecars connect to another socket"


@pytest.mark.gate("rbac-and-dev-in-the-chart")
def test_the_driver_sees_the_node():
    """The driver's container has /dev and each folder of the node at its own path, mounts going both ways."""
    pod = node_pod(rendered())
    container = driver_of(pod)
    seen = paths(container)
    for name, path in sources(pod).items():
        if name not in ("socket", "proc"):
            assert seen[path]["name"] == name
    assert seen["/dev"].get("readOnly") is None
    for folder in ("plugins", "pods"):
        assert seen[f"/var/lib/kubelet/{folder}"]["mountPropagation"] == "Bidirectional"
    assert container["securityContext"] == PRIVILEGED


@pytest.mark.gate("holders-are-seen-from-a-container")
@pytest.mark.parametrize("values", [{}, LVM], ids=["local", "lvm"])
def test_the_driver_sees_who_holds_a_volume(values):
    """The node's processes are where the configuration says, for the driver alone."""
    objects = rendered(values)
    pod = node_pod(objects)
    proc = paths(driver_of(pod))[configuration(objects)["host_proc"]]
    assert sources(pod)[proc["name"]] == "/proc"
    assert proc["readOnly"]
    others = [each for each in pod["containers"] if each["name"] != "katacsi"]
    assert all(mount["name"] != "proc" for each in others for mount in each["volumeMounts"])


def test_the_driver_looks_where_the_chart_mounts():
    """The folders of bundles, sandboxes and shims are those in which the driver looks by default."""
    for runtime in ("containerd", "k3s", "k0s", "crio"):
        pod = node_pod(rendered({"kata": {"containerRuntime": runtime}}))
        mount = {each["name"]: each for each in driver_of(pod)["volumeMounts"]}
        assert any(place.startswith(f"{mount['bundles']['mountPath']}/*/") for place in bundles.STOCK_PLACES)
        defaults = Sandboxes.__init__.__kwdefaults__
        for name, key in (
            ("shims-go", "go_sockets"),
            ("shims-rust", "rust_sockets"),
            ("sandboxes", "shared"),
        ):
            assert mount[name]["mountPath"] == str(defaults[key])
            # A copy of a mount that lies below, kept in our container, would keep it busy.
            assert mount[name]["mountPropagation"] == "HostToContainer"
            assert mount[name]["readOnly"]


def test_a_disk_that_has_to_be_mounted_is_seen_from_above():
    """A folder with `require_mount` is no mount of its own in the container, where it would always be one."""
    pool = {"backend": "loopfile", "directory": "/srv/katacsi/disk", "require_mount": True}
    plain = {"backend": "loopfile", "directory": "/srv/katacsi/other"}
    pod = node_pod(rendered({"pools": {"default": pool, "other": plain}}))
    seen = paths(driver_of(pod))
    assert seen["/srv/katacsi"]["mountPropagation"] == "HostToContainer"
    assert "/srv/katacsi/disk" not in seen
    assert "/srv/katacsi/other" not in seen, "what lies below comes with the folder above"


@pytest.mark.parametrize("values", SHAPES)
def test_only_the_driver_of_a_node_is_privileged(values):
    """Every other container has no capability, no writable root and no way to more rights."""
    objects = rendered(values)
    for workload in of_kind(objects, "DaemonSet") + of_kind(objects, "Deployment"):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            context = container["securityContext"]
            if (workload["kind"], container["name"]) == ("DaemonSet", "katacsi"):
                assert context == PRIVILEGED
                continue
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert "privileged" not in context


@pytest.mark.parametrize("values", SHAPES)
def test_every_mount_has_its_volume(values):
    """No container mounts what the pod does not have."""
    for pod in pods(rendered(values)):
        there = {volume["name"] for volume in pod["volumes"]}
        used = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
        assert used <= there
        assert there - used <= {"registration", "socket"}


def test_services_do_not_become_settings():
    """A Service named katacsi-… makes no KATACSI_… variable, which the driver would refuse as a setting."""
    for values in ({}, NETWORK):
        for pod in pods(rendered(values)):
            assert pod["enableServiceLinks"] is False


def test_the_driver_asks_the_api_unless_somebody_says_no():
    """The API is used, and a setting beside it, or against it, is kept."""
    assert configuration(rendered())["kube"] == {"enabled": True}
    over = {"config": {"kube": {"events": False}}}
    assert configuration(rendered(over))["kube"] == {"enabled": True, "events": False}
    assert configuration(rendered({"config": {"kube": {"enabled": False}}}))["kube"] == {"enabled": False}


def test_a_controller_registers_with_no_kubelet(tmp_path):
    """The configuration is shared; the variables of the controller's container take the registration away."""
    objects = rendered(NETWORK)
    shared = configuration(objects) | {"pools": chart_goldens.LOCAL["pools"]}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(shared))
    pod = one(objects, "Deployment", "katacsi-controller")["spec"]["template"]["spec"]
    variables = {each["name"]: each["value"] for each in driver_of(pod)["env"] if "value" in each}
    assert settings.load(file, {}).kubelet.registration_socket is not None
    of_controller = settings.load(file, variables)
    assert of_controller.kubelet.registration_socket is None
    assert of_controller.host_proc == "/proc", "a controller's pod has no other"


def test_the_driver_takes_the_classes():
    """CreateVolume would take the parameters of every StorageClass, backend parameters included."""
    objects = rendered(LVM)
    for storage_class in of_kind(objects, "StorageClass"):
        assert storage_class["provisioner"] == one(objects, "CSIDriver")["metadata"]["name"]
        assert storage_class["volumeBindingMode"] == "WaitForFirstConsumer"
        chosen = parameters.parse(storage_class["parameters"])
        assert set(chosen.backend) <= set(registry.load("lvm").parameters)


def test_every_direct_class_is_warned_of():
    """The policy on subPath names each class with direct: "true", twins included, and no other."""
    objects = rendered()
    (policy,) = of_kind(objects, "ValidatingAdmissionPolicy", "katacsi-subpath")
    for each in of_kind(objects, "StorageClass"):
        direct = each["parameters"][parameters.DIRECT] == "true"
        assert (f"'{each['metadata']['name']}'" in policy["spec"]["validations"][0]["expression"]) == direct


@pytest.mark.parametrize(
    ("values", "kubernetes", "wanted"),
    [
        ({}, "1.37.2", None),
        ({"csiDriver": {"preventPodSchedulingIfMissing": True}}, "1.37.2", True),
        ({"csiDriver": {"preventPodSchedulingIfMissing": True}}, "1.36.9", None),
    ],
    ids=["default", "asked", "older"],
)
def test_pods_do_not_wait_for_a_driver_that_is_rolled_over(values, kubernetes, wanted):
    """Only who asks for it, of a cluster that knows it, has the scheduler hold pods back."""
    spec = one(rendered(values, kubernetes=kubernetes), "CSIDriver")["spec"]
    assert spec.get("preventPodSchedulingIfMissing") is wanted


@pytest.mark.parametrize("wanted", [False, True])
def test_labels_by_mount_are_asked_for_by_value(wanted):
    """`seLinuxMount` is the operator's, and off unless somebody says so."""
    values = {"csiDriver": {"seLinuxMount": True}} if wanted else {}
    assert one(rendered(values), "CSIDriver")["spec"]["seLinuxMount"] is wanted


def test_a_twin_keeps_its_volumes():
    """With `retain` a class has a twin that differs in its reclaim policy alone."""
    classes = {each["metadata"]["name"]: each for each in of_kind(rendered(), "StorageClass")}
    assert sorted(classes) == ["katacsi", "katacsi-direct", "katacsi-direct-retain", "katacsi-retain"]
    for name in ("katacsi", "katacsi-direct"):
        twin = classes[f"{name}-retain"] | {"metadata": None, "reclaimPolicy": "Delete"}
        assert twin == classes[name] | {"metadata": None}


def test_snapshots_follow_the_cluster():
    """`auto` runs the snapshot sidecar where the CRDs are; `true` and `false` do not ask."""
    for enabled, apis, wanted in (
        ("auto", (chart_goldens.SNAPSHOTS,), 1),
        ("auto", (), 0),
        (True, (), 1),
        (False, (chart_goldens.SNAPSHOTS,), 0),
    ):
        objects = rendered({"snapshots": {"enabled": enabled}}, apis=apis)
        pod = node_pod(objects)
        assert sum(each["name"] == "csi-snapshotter" for each in pod["containers"]) == wanted
        assert len(of_kind(objects, "VolumeSnapshotClass")) == wanted


def test_sidecars_are_pinned_to_what_is_tested():
    """Images name a version, and those that the tests build are of the very version that they build."""
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    built = kube_programs.versions()
    for name, sidecar in values["sidecars"].items():
        if not isinstance(sidecar, dict) or "image" not in sidecar:
            continue
        program, _, version = sidecar["image"].rpartition("/")[2].partition(":")
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version), name
        if program in kube_programs.PROGRAMS:
            assert version == built[kube_programs.PROGRAMS[program].module], name


def test_what_is_shown_exists():
    """The dashboard and the alerts ask for metrics that the driver has, and for no other."""
    objects = rendered(LOOKING)
    shown = str(of_kind(objects, "PrometheusRule")) + str(
        [each["data"] for each in of_kind(objects, "ConfigMap") if "katacsi.json" in each["data"]]
    )
    named = set(re.findall(r"\bkatacsi_[a-z_]+\b", shown))
    made = (Metrics.create("0"), NodeWatchMetrics.create("0"))
    families = [family for each in made for family in each.registry.collect()]
    there = {sample.name for family in families for sample in family.samples}
    there |= {f"{family.name}_{end}" for family in families for end in ("count", "sum", "bucket", "total")}
    there |= {family.name for family in families}
    assert named <= there


def test_the_driver_may_do_what_it_asks_and_no_more():
    """Its role has exactly the rules that the driver needs, and that `katacsi doctor` looks for."""
    (role,) = [
        each for each in of_kind(rendered({}), "ClusterRole") if each["metadata"]["name"].endswith("-driver")
    ]
    given = {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = (*access.NEEDED, *access.FOR_ORPHANS, *access.FOR_EVENTS)
    assert given == {(rule.verb, rule.group, rule.resource) for rule in needed}
