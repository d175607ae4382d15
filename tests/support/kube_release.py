"""katacsi and its sidecars in a cluster: processes with the tokens of the chart's pods."""

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
from support.kube_chart import DRIVER, NAMESPACE, Chart, pod_of, token_of
from support.kube_http import until
from support.kube_lab import KUBELET, TREE, Inside, Lab
from support.kube_rights import ACCOUNT, ACCOUNT_NAMESPACE, snapshot_controller_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.kube_http import Object

#: As the kubelet does with containers: csi-provisioner ends when it loses the driver.
SUPERVISED = 'while :; do "$@"; sleep 0.5; done'
#: Where Kata looks for records, inside.
RECORDS = Path("/run/kata-containers/shared/direct-volumes")


class Plugin:
    """The driver of a node and the sidecars that stand beside it: what the chart's pod runs, as processes.

    Args:
        lab: the cluster.
        chart: the release.
        node: the node's name. Only `node-1` has a kubelet.
        quota: of the pool `default`, instead of the chart's.
        settings: of the driver, instead of the chart's.
    """

    def __init__(
        self,
        lab: Lab,
        chart: Chart,
        node: str = NODE,
        *,
        quota: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.lab, self.chart, self.node = lab, chart, node
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

    def start(self, *names: str) -> None:
        """Start the driver and its sidecars, and wait until the kubelet, if there is one, has taken it.

        Args:
            names: of the sidecars; all, if none is named.
        """
        pod = pod_of(self.lab, self.chart, self.node)
        config = self.lab.files.write_kubeconfig(self.node, token_of(self.lab, self.chart, pod))
        self.start_driver()
        for name, container in self.chart.containers.items():
            if name in names or (not names and name.startswith("csi-")):
                self.sidecars[name] = self._start_sidecar(name, container["args"], config, pod)
        if self.node == NODE:
            self.wait_registered()

    def start_driver(self) -> None:
        """Start the driver, with what was there before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_pools()
        config = self.folder / "katacsi.yaml"
        config.write_text(yaml.safe_dump(self._configuration()), "utf-8")
        self.lab.run("mkdir", "-p", str(self.socket.parent), str(KUBELET / "plugins_registry"), str(RECORDS))
        program = [TREE / ".venv/bin/python", "-m", "katacsi", "serve", "--config", config]
        options = ["--endpoint", f"unix://{self.socket}", "--node-id", self.node]
        self.driver = self.lab.start(f"katacsi-{self.node}", *program, *options)
        self.wait_serving()

    def _start_sidecar(self, name: str, arguments: list[str], config: Path, pod: Object) -> Inside:
        """Start a sidecar with the arguments and variables of its container, again whenever it ends."""
        given = [each for each in arguments if not each.startswith("--csi-address=")]
        if "--leader-election" in given:
            given.append(f"--leader-election-namespace={NAMESPACE}")  # in a pod it finds that by itself
        return self.lab.start(
            f"{name}-{self.node}",
            *("bash", "-c", SUPERVISED, "sidecar", kubetools.path(name)),
            *(f"--csi-address={self.socket}", f"--kubeconfig={config}", *given),
            NODE_NAME=self.node,
            NAMESPACE=NAMESPACE,
            POD_NAME=pod["metadata"]["name"],
        )

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
        """Wait until the kubelet has taken the driver, this start of it and no former one.

        A pod that comes before waits for the kubelet's next attempt, which may be two minutes away.
        """
        until(
            "the kubelet has taken the driver",
            lambda: self._has_registered() and DRIVER in self._known_to_kubelet(),
        )

    def _has_registered(self) -> bool:
        """Whether the driver has been told so since it serves."""
        said = self.log.read_text("utf-8").rpartition('"event": "serving"')[2]
        return '"event": "registered with the kubelet"' in said

    def crash(self) -> None:
        """End the driver with SIGKILL."""
        assert self.driver is not None
        self.driver.end(signal.SIGKILL)

    def end(self) -> None:
        """End all that runs of it, as the node's power-off does."""
        for process in (*self.sidecars.values(), self.driver):
            if process is not None:
                process.end_all()
        self.lab.run("umount", "--lazy", f"{self.folder}/reflink", check=False)

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
        return self.images("default")

    def images(self, pool: str) -> list[str]:
        """Return the volumes of a pool, from its folder."""
        within = {"default": self.pool, "reflink": self.folder / "reflink/pool"}[pool] / "volumes"
        folder = self.lab.path(within)
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
        """Return the chart's settings, with the paths of a process instead of a container's."""
        settings = self.chart.settings
        settings["pools"]["default"]["directory"] = str(self.pool)
        if self._quota:
            settings["pools"]["default"]["quota"] = self._quota
        settings["pools"]["reflink"]["directory"] = f"{self.folder}/reflink/pool"
        settings["kube"]["kubeconfig"] = str(self.lab.files.kubeconfig(self.node))
        settings["host_proc"] = "/proc"
        if self.node != NODE:
            for name in ("kubelet", "health", "metrics"):
                settings.pop(name, None)
            settings["state_directory"] = f"/run/katacsi/{self.node}"
            settings["direct_volume_root"] = f"/run/records/{self.node}"
        return settings | dict(self._settings)


def start_snapshot_controller(lab: Lab) -> Inside:
    """Start what a cluster with snapshots has once, whoever makes its volumes."""
    for item in snapshot_controller_objects():
        lab.api.apply(item)
    config = lab.files.write_kubeconfig("snapshot-controller", lab.api.token_of(ACCOUNT, ACCOUNT_NAMESPACE))
    return lab.start(
        "snapshot-controller-node-1",
        *("bash", "-c", SUPERVISED, "controller", kubetools.path("snapshot-controller")),
        *(f"--kubeconfig={config}", "--v=4", "--enable-distributed-snapshotting"),
        "--feature-gates=CSIVolumeGroupSnapshot=false",
    )
