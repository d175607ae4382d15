"""The chart as it is rendered and applied, and what its pods would be: account, arguments, configuration.

Its DaemonSet runs with one container that sleeps, in the place of its own. So each node has a pod of the
release, to which real tokens are bound, and the programs run beside it as processes.
"""

from __future__ import annotations

import copy
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import kubetools
from kube_settings import IMAGE
from support.kube_http import until

if TYPE_CHECKING:
    from support.kube_http import Object
    from support.kube_lab import Lab

TREE = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "katacsi"
#: Not the chart's name: a test installs another release by that, and what is cluster-wide is named by it.
RELEASE = "lab"
DRIVER = "local.katacsi.io"

#: Pools `default`, a folder, and `reflink`, an xfs. Each node has them elsewhere: they share their mounts.
VALUES: dict[str, Any] = {
    "driverName": DRIVER,
    "pools": {
        "default": {"backend": "loopfile", "directory": "/var/lib/katacsi/default", "quota": "20Gi"},
        "reflink": {"backend": "loopfile", "directory": "/var/lib/katacsi/reflink"},
    },
    "config": {"log": {"level": "debug", "format": "json"}, "kube": {"enabled": True}},
    "storageClasses": {
        "katacsi": {"enabled": False},
        "katacsi-direct": {"enabled": False},
        "host": {"direct": "false", "pool": "default"},
        "direct": {"direct": "true", "pool": "default"},
        "auto": {"pool": "reflink", "retain": True},
        "xfs": {"direct": "false", "pool": "reflink", "fsType": "xfs"},
    },
    "sidecars": {"logLevel": 4, "provisioner": {"capacityPollInterval": "5s"}},
}


@dataclass(frozen=True)
class Chart:
    """The objects of a release, as helm renders them."""

    items: list[Object]

    def one(self, kind: str) -> Object:
        """Return the only object of a kind."""
        (found,) = (item for item in self.items if item["kind"] == kind)
        return found

    @property
    def containers(self) -> dict[str, Object]:
        """Return the containers of the DaemonSet, by name."""
        pod = self.one("DaemonSet")["spec"]["template"]["spec"]
        return {container["name"]: container for container in pod["containers"]}

    @property
    def settings(self) -> dict[str, Any]:
        """Return the driver's configuration."""
        found: dict[str, Any] = yaml.safe_load(self.one("ConfigMap")["data"]["config.yaml"])
        return found

    @property
    def account(self) -> str:
        """Return the ServiceAccount of the DaemonSet's pods."""
        return str(self.one("DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"])

    def applied(self) -> list[Object]:
        """Return the objects as the lab applies them; there is no image for the watch's Deployment."""
        items = copy.deepcopy([item for item in self.items if item["kind"] != "Deployment"])
        for item in items:
            if item["kind"] == "DaemonSet":
                pod = item["spec"]["template"]["spec"]
                sleeper = {"name": "stands-in", "image": IMAGE, "imagePullPolicy": "Never"}
                pod["containers"], pod["volumes"] = [sleeper], []
                pod["terminationGracePeriodSeconds"] = 1
        return items


def render(folder: Path) -> Chart:
    """Render the chart with VALUES; the files go to a folder."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES), "utf-8")
    rendered = subprocess.run(
        [
            *(kubetools.path("helm"), "template", RELEASE, TREE / "charts/katacsi"),
            *("--namespace", NAMESPACE, "--values", values, "--kube-version", "1.37.2"),
            *("--api-versions", "snapshot.storage.k8s.io/v1"),
        ],
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not rendered.returncode, rendered.stderr
    return Chart([item for item in yaml.safe_load_all(rendered.stdout) if item])


def install(lab: Lab) -> Chart:
    """Bring the release into the cluster, and what a cluster has before: snapshot CRDs, a RuntimeClass.

    Raises:
        AssertionError: the API server refuses an object, or knows a field of it not.
    """
    chart = render(lab.files.folder)
    crds = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(kubetools.path("crds").iterdir())]
    kata = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "kata"},
        "handler": "kata",
    }
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    for item in (*crds, space, kata):
        lab.api.apply(item)
    until("the snapshot CRDs are served", lambda: all(_is_served(lab, crd) for crd in crds))
    # By kubectl: its answer to a mistake in the chart is the one that a person would see.
    file = lab.files.folder / "applied.json"
    items = {"apiVersion": "v1", "kind": "List", "items": chart.applied()}
    file.write_text(json.dumps(items), "utf-8")
    lab.run("kubectl", "apply", "--validate=strict", f"--namespace={NAMESPACE}", f"--filename={file}")
    return chart


def pod_of(lab: Lab, chart: Chart, node: str) -> Object:
    """Return the DaemonSet's pod on a node, waiting until there is one."""

    def look() -> Object | None:
        pods = lab.api.list("Pod", NAMESPACE)
        return next((pod for pod in pods if pod["spec"].get("nodeName") == node and _is_of(chart, pod)), None)

    found = until(f"{node} has a pod of the release", look)
    assert found is not None
    return found


def token_of(lab: Lab, chart: Chart, pod: Object) -> str:
    """Return a token as the kubelet puts it into a pod: bound to the pod, and by it to the node."""
    bound = {
        "kind": "Pod",
        "apiVersion": "v1",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    return lab.api.token_of(chart.account, NAMESPACE, boundObjectRef=bound)


def _is_of(chart: Chart, pod: Object) -> bool:
    owners = pod["metadata"].get("ownerReferences", [])
    return any(owner["name"] == chart.one("DaemonSet")["metadata"]["name"] for owner in owners)


def _is_served(lab: Lab, crd: Object) -> bool:
    seen = lab.api.get("CustomResourceDefinition", crd["metadata"]["name"]) or {}
    conditions = {each["type"]: each["status"] for each in seen.get("status", {}).get("conditions", [])}
    return conditions.get("Established") == "True"
