"""The life of a claim and of its pod, timed: from being asked for until nothing is left."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_watch import Watch
from scratch import Failure

from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from support.kube_http import Object
    from support.kube_lab import Lab
    from support.kube_release import Plugin

#: What the volumes are. A folder of the node, whose PersistentVolume is there before, is the floor: the same
#: claim, pod, scheduler, controllers, kubelet and runtime, and no driver.
FOLDER, HOST, DIRECT = "a folder (no driver)", "katacsi, host mount", "katacsi, direct"
#: The class says nothing: the claim's annotations and the pod's RuntimeClass are asked for.
ASKED = "katacsi, direct by RuntimeClass"
SUBJECTS = (FOLDER, HOST, DIRECT, ASKED)
#: What is timed, with the moments between which it lies.
BOUND, PUBLISHED, RUNNING, GONE = (
    "claim created to bound",
    "pod bound to published",
    "pod bound to running",
    "claim deleted to volume gone",
)
STEPS = (BOUND, PUBLISHED, RUNNING, GONE)
STATIC_CLASS, ASKING_CLASS = "bench-folder", "bench-asked"
_CLASSES = {FOLDER: STATIC_CLASS, HOST: "host", DIRECT: "direct", ASKED: ASKING_CLASS}

_numbers = itertools.count()


class Lives:
    """Runs lives in a cluster, and times them. Use it with `with`."""

    def __init__(self, lab: Lab, plugin: Plugin) -> None:
        self._lab, self._plugin = lab, plugin
        self._claims = Watch(lab.api, "PersistentVolumeClaim", {"bound": _is_bound})
        self._pods = Watch(lab.api, "Pod", {"bound": _has_node, "running": _is_ready})
        self._volumes = Watch(lab.api, "PersistentVolume", {})

    def __enter__(self) -> Lives:
        for watch in (self._claims, self._pods, self._volumes):
            watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for watch in (self._claims, self._pods, self._volumes):
            watch.__exit__()

    def run(self, subject: str, at_once: int) -> dict[str, list[float]]:
        """Run so many lives of a kind at once; return the seconds of each step of each."""
        names = [f"bench-{next(_numbers)}" for _ in range(at_once)]
        if subject == FOLDER:
            for name in names:
                self._make_folder(name)
        began = self._plugin.log.stat().st_size
        with ThreadPoolExecutor(at_once) as callers:
            lives = list(callers.map(lambda name: self._life(name, subject), names))
        if subject != FOLDER:
            published = self._published(began)
            for life in lives:
                life[PUBLISHED] = published[life.pop("volume")] - life.pop("scheduled")
        return {step: [life[step] for life in lives] for step in STEPS if step in lives[0]}

    def _life(self, name: str, subject: str) -> dict:
        """Run one life; `volume` and `scheduled` are for who reads the driver's log."""
        api = self._lab.api
        asked = time.time()
        api.apply(claim(name, _CLASSES[subject]))
        api.apply(pod(name, name, runtime="kata" if subject in (DIRECT, ASKED) else ""))
        life: dict = {BOUND: self._claims.when(name, "bound") - asked}
        volume = self._claims.last(name)["spec"]["volumeName"]
        scheduled = self._pods.when(name, "bound")
        life[RUNNING] = self._pods.when(name, "running") - scheduled
        api.delete("Pod", name)
        self._pods.when(name, "gone")
        asked = time.time()
        api.delete("PersistentVolumeClaim", name)
        if subject == FOLDER:
            self._claims.when(name, "gone")
            api.delete("PersistentVolume", volume)
            return life
        life[GONE] = self._volumes.when(volume, "gone") - asked
        return life | {"volume": volume, "scheduled": scheduled}

    def _published(self, since: int) -> dict[str, float]:
        """Return when the driver had published each volume, by its log from some byte on."""
        found: dict[str, float] = {}
        with self._plugin.log.open("rb") as log:
            log.seek(since)
            for line in log:
                if b'"NodePublishVolume"' in line and b'"answered"' in line:
                    entry = json.loads(line)
                    if entry["code"] == "OK":
                        moment = datetime.fromisoformat(entry["timestamp"]).timestamp()
                        found.setdefault(entry["volume_id"].rpartition(":")[2], moment)
        if not found:
            raise Failure(f"{self._plugin.log} tells of no NodePublishVolume")
        return found

    def _make_folder(self, name: str) -> None:
        """Make a PersistentVolume that a claim may have: a folder of the node."""
        folder = Path(self._plugin.folder) / "folders" / name
        folder.mkdir(parents=True)
        self._lab.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "storageClassName": STATIC_CLASS,
                    "capacity": {"storage": "64Mi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": str(folder)},
                },
            }
        )


def _is_bound(item: Object) -> bool:
    return bool(item.get("status", {}).get("phase") == "Bound")


def _has_node(item: Object) -> bool:
    return bool(item["spec"].get("nodeName"))


def _is_ready(item: Object) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
