"""katacsi and the sidecars in a cluster, as processes: each with the token of its own ServiceAccount."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import kubetools
from kube_files import NODE
from support.kube_http import ApiError, until
from support.kube_lab import KUBELET, TREE, Inside, Lab
from support.kube_objects import storage_class
from support.kube_rights import NAMESPACE, release_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVER = "local.katacsi.io"
#: As the kubelet does with containers: csi-provisioner ends when it loses the driver.
SUPERVISED = 'while :; do "$@"; sleep 0.5; done'
#: Where Kata looks for records, inside.
RECORDS = Path("/run/kata-containers/shared/direct-volumes")
NO_GROUPS = "--feature-gates=CSIVolumeGroupSnapshot=false"

ON_EACH_NODE = {
    "csi-provisioner": [
        "--node-deployment",
        "--node-deployment-immediate-binding=false",
        "--strict-topology",
        "--immediate-topology=false",
        "--enable-capacity",
        "--capacity-ownerref-level=-1",
        "--capacity-poll-interval=5s",
        "--extra-create-metadata",
    ],
    "csi-snapshotter": ["--node-deployment", "--extra-create-metadata", NO_GROUPS],
}
ONCE = {
    "csi-resizer": ["--leader-election", f"--leader-election-namespace={NAMESPACE}"],
    "snapshot-controller": ["--enable-distributed-snapshotting", NO_GROUPS],
}

#: Pools `default`, a folder, and `reflink`, an xfs; what the parameter says, and nothing.
CLASSES = (
    storage_class("host", DRIVER, {"katacsi.io/pool": "default", "katacsi.io/direct": "false"}),
    storage_class("direct", DRIVER, {"katacsi.io/pool": "default", "katacsi.io/direct": "true"}),
    storage_class("auto", DRIVER, {"katacsi.io/pool": "reflink"}),
    storage_class(
        "xfs",
        DRIVER,
        {
            "katacsi.io/pool": "reflink",
            "katacsi.io/direct": "false",
            "csi.storage.k8s.io/fstype": "xfs",
        },
    ),
    storage_class("kept", DRIVER, {"katacsi.io/pool": "default"}, reclaimPolicy="Retain"),
)


class Plugin:
    """The driver of a node, with the sidecars that stand beside it.

    Args:
        lab: the cluster.
        node: the node's name. Only `node-1` has a kubelet.
        quota: of the pool `default`.
        settings: beside the usual ones.
    """

    def __init__(
        self, lab: Lab, node: str = NODE, quota: str = "20Gi", settings: Mapping[str, Any] | None = None
    ) -> None:
        self.lab, self.node = lab, node
        self._quota = quota
        self._settings = settings or {}
        self.folder = lab.files.folder / "nodes" / node
        plugins = KUBELET / "plugins" if node == NODE else Path("/run/plugins") / node
        self.socket = plugins / DRIVER / "csi.sock"
        self.driver: Inside | None = None
        self.sidecars: dict[str, Inside] = {}

    @property
    def pool(self) -> Path:
        """Return the folder of the pool `default`, the same inside and out here."""
        return self.folder / "default"

    @property
    def log(self) -> Path:
        """Return the driver's log: JSON, at level debug."""
        return self.lab.files.log / f"katacsi-{self.node}.log"

    def start(self) -> None:
        """Start the driver and its sidecars, and wait until the kubelet, if there is one, has taken it."""
        self.start_driver()
        for name, options in ON_EACH_NODE.items():
            self.sidecars[name] = start_sidecar(self.lab, name, options, self.node, self.socket)
        if self.node == NODE:
            self.wait_registered()

    def start_driver(self) -> None:
        """Start the driver, with what was there before."""
        self._make_pools()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "katacsi.yaml"
        config.write_text(yaml.safe_dump(self._configuration()), "utf-8")
        self.lab.run("mkdir", "-p", str(self.socket.parent), str(KUBELET / "plugins_registry"), str(RECORDS))
        program = [TREE / ".venv/bin/python", "-m", "katacsi", "serve", "--config", config]
        options = ["--endpoint", f"unix://{self.socket}", "--node-id", self.node]
        self.driver = self.lab.start(f"katacsi-{self.node}", *program, *options)
        self.wait_serving()

    def wait_serving(self) -> None:
        """Wait until the driver's socket answers."""
        outside = self.lab.path(self.socket)
        assert self.driver is not None, "the driver was started"
        driver = self.driver

        def answers() -> bool:
            assert driver.runs, f"the driver ended:\n{driver.tail()}"
            with socket.socket(socket.AF_UNIX) as probe:  # a file may be of before a crash or a reboot
                return probe.connect_ex(str(outside)) == 0

        until(f"the driver of {self.node} serves", answers)

    def wait_registered(self) -> None:
        """Wait until the kubelet has taken the driver."""
        until("the kubelet has taken the driver", lambda: DRIVER in self._known_to_kubelet())

    def crash(self) -> None:
        """End the driver with SIGKILL."""
        assert self.driver is not None
        self.driver.end(signal.SIGKILL)

    def calls(self) -> list[dict[str, Any]]:
        """Return what the driver was asked and what it answered since it was first started, from its log."""
        entries = []
        for line in self.log.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("event") in ("asked", "answered"):
                entries.append(entry)
        return entries

    def volumes(self) -> list[str]:
        """Return the volumes of the pool `default`, from its folder."""
        folder = self.pool / "volumes"
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    def _known_to_kubelet(self) -> list[str]:
        node = self.lab.api.get("CSINode", self.node) or {"spec": {}}
        return [driver["name"] for driver in node["spec"].get("drivers") or []]

    def _make_pools(self) -> None:
        """Make a pool in a folder, and one on an xfs with reflinks, which is mounted inside."""
        self.pool.mkdir(parents=True, exist_ok=True)
        image, mount = self.folder / "reflink.img", self.folder / "reflink"
        if not image.exists():
            mount.mkdir()
            with image.open("wb") as file:
                file.truncate(4 << 30)
            subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        self.lab.run("bash", "-c", f"mountpoint -q {mount} || mount -o loop {image} {mount}")
        self.lab.run("mkdir", "-p", f"{mount}/pool")

    def _configuration(self) -> dict[str, Any]:
        usual: dict[str, Any] = {
            "driver_name": DRIVER,
            "log": {"level": "debug", "format": "json"},
            "pools": {
                "default": {"backend": "loopfile", "directory": str(self.pool), "quota": self._quota},
                "reflink": {"backend": "loopfile", "directory": f"{self.folder}/reflink/pool"},
            },
        }
        if self.node == NODE:
            usual["kubelet"] = {"registration_socket": f"{KUBELET}/plugins_registry/{DRIVER}-reg.sock"}
        else:
            usual["state_directory"] = f"/run/katacsi/{self.node}"
            usual["direct_volume_root"] = f"/run/records/{self.node}"
        return usual | dict(self._settings)


def install(lab: Lab) -> None:
    """Bring into the cluster what a release consists of, beside its pods."""
    crds = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(kubetools.path("crds").iterdir())]
    snapshot_class = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": {"name": "katacsi"},
        "driver": DRIVER,
        "deletionPolicy": "Delete",
    }
    for item in (*crds, *release_objects(DRIVER), *CLASSES):
        lab.api.apply(item)
    until("the snapshot CRDs are served", lambda: all(_is_served(lab, crd) for crd in crds))
    until("the snapshot API answers", lambda: _applied(lab, snapshot_class))


def _is_served(lab: Lab, crd: dict[str, Any]) -> bool:
    seen = lab.api.get("CustomResourceDefinition", crd["metadata"]["name"]) or {}
    conditions = {each["type"]: each["status"] for each in seen.get("status", {}).get("conditions", [])}
    return conditions.get("Established") == "True"


def _applied(lab: Lab, item: dict[str, Any]) -> bool:
    try:
        lab.api.apply(item)
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


def start_once(lab: Lab, plugin: Plugin) -> dict[str, Inside]:
    """Start what a cluster has once: csi-resizer, beside one of the drivers, and snapshot-controller."""
    sockets = {"csi-resizer": plugin.socket, "snapshot-controller": None}
    return {
        name: start_sidecar(lab, name, ONCE[name], plugin.node, address) for name, address in sockets.items()
    }


def start_sidecar(lab: Lab, name: str, options: list[str], node: str, csi: Path | None) -> Inside:
    """Start a sidecar as its ServiceAccount; it is started again whenever it ends."""
    config = lab.files.write_kubeconfig(name, lab.api.token_of(name, NAMESPACE))
    address = [f"--csi-address={csi}"] if csi else []
    return lab.start(
        f"{name}-{node}",
        *("bash", "-c", SUPERVISED, "sidecar", kubetools.path(name), *address),
        *(f"--kubeconfig={config}", "--v=4", *options),
        NODE_NAME=node,
        NAMESPACE=NAMESPACE,
        POD_NAME="none",
    )
