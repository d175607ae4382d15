"""What a test makes in the cluster: claims, pods, snapshots; and the proof that nothing of them is left."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING, Any

from katacsi.testing import leaks
from support.kube_http import Object, until
from support.kube_release import RECORDS

if TYPE_CHECKING:
    from support.kube_http import Api
    from support.kube_lab import Lab
    from support.kube_release import Plugin

#: In this order they can be deleted: what uses comes before what is used.
KINDS = ("Pod", "VolumeSnapshot", "PersistentVolumeClaim")


class Work:
    """The objects of one test."""

    def __init__(self, lab: Lab, plugin: Plugin) -> None:
        self.lab, self.plugin = lab, plugin
        self._made: list[tuple[str, str]] = []

    @property
    def api(self) -> Api:
        """Return the API as the administrator has it; after a reboot it is another client."""
        return self.lab.api

    def make(self, *items: Object) -> None:
        """Bring objects into the cluster; the test's end removes them."""
        for item in items:
            self._made.append((item["kind"], item["metadata"]["name"]))
            self.api.apply(item)

    def running(self, *names: str, limit_s: float = 120) -> None:
        """Wait until all these pods run."""
        waiting = set(names)

        def all_run() -> bool:
            waiting.difference_update([name for name in waiting if self._runs(name)])
            return not waiting

        try:
            until("the pods run", all_run, limit_s)
        except AssertionError as error:
            for name in sorted(waiting):
                error.add_note(f"{name}: {self.api.events(name)}")
            raise

    def bound(self, name: str, limit_s: float = 120) -> Object:
        """Wait until a claim is bound, and return its PersistentVolume."""

        def look() -> Object | None:
            claim = self.api.get("PersistentVolumeClaim", name)
            if claim is None or claim.get("status", {}).get("phase") != "Bound":
                return None
            return self.api.get("PersistentVolume", claim["spec"]["volumeName"])

        try:
            found = until(f"the claim {name} is bound", look, limit_s)
        except AssertionError as error:
            error.add_note(f"{name}: {self.api.events(name)}")
            raise
        assert found is not None
        return found

    def handle(self, name: str) -> str:
        """Return the CSI volume id behind a claim."""
        return str(self.bound(name)["spec"]["csi"]["volumeHandle"])

    def event(self, name: str, text: str, limit_s: float = 120) -> str:
        """Wait for an event of an object with some text, and return it."""
        seen: list[str] = []

        def look() -> str:
            seen[:] = self.api.events(name)
            return next((event for event in seen if text in event), "")

        try:
            return until(f"{name} has an event with {text!r}", look, limit_s)
        except AssertionError as error:
            error.add_note(f"its events: {seen}")
            raise

    def delete(self, kind: str, *names: str, limit_s: float = 180, force: bool = False) -> None:
        """Delete objects, and wait until they are gone."""
        for name in names:
            self.api.delete(kind, name, force=force)
        for name in names:
            try:
                until(f"{kind} {name} is gone", lambda name=name: self.api.get(kind, name) is None, limit_s)
            except AssertionError as error:
                error.add_note(f"{name}: {self.api.events(name)}")
                raise

    def grow(self, name: str, size: str) -> None:
        """Ask for a larger size of a claim."""
        wanted = {"spec": {"resources": {"requests": {"storage": size}}}}
        self.api.patch("PersistentVolumeClaim", name, wanted)

    def size(self, name: str) -> str:
        """Return the size that a claim says to have."""
        claim = self.api.get("PersistentVolumeClaim", name) or {}
        return str(claim.get("status", {}).get("capacity", {}).get("storage", ""))

    def target(self, pod: str, claim: str) -> str:
        """Return the path inside at which a pod's volume is published."""
        uid = (self.api.get("Pod", pod) or {})["metadata"]["uid"]
        volume = self.bound(claim)["metadata"]["name"]
        return f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount"

    def record(self, pod: str, claim: str) -> dict[str, Any] | None:
        """Return what Kata would read of a pod's volume: the record for exactly its target."""
        name = base64.urlsafe_b64encode(self.target(pod, claim).encode()).decode()
        file = self.lab.path(RECORDS / name / "mountInfo.json")
        found: dict[str, Any] | None = json.loads(file.read_text("utf-8")) if file.exists() else None
        return found

    def mounts_of(self, pod: str, claim: str) -> list[str]:
        """Return the lines of mountinfo that are at a pod's target."""
        target = self.target(pod, claim)
        return [line for line in self.lab.mounts() if line.split(" ")[4] == target]

    def restarts(self, *pods: str) -> list[int]:
        """Return how often each pod's container was started again."""
        return [
            int((self.api.get("Pod", pod) or {})["status"]["containerStatuses"][0]["restartCount"])
            for pod in pods
        ]

    def clean_up(self) -> None:
        """Delete what was made, and look: no volume, no device, no mount, no record.

        Raises:
            AssertionError: something of it is left.
        """
        for kind in KINDS:
            names = [name for made, name in self._made if made == kind]
            self.delete(kind, *dict.fromkeys(names))
        for kind, name in self._made:
            if kind not in KINDS:
                self.api.delete(kind, name)
        until("no PersistentVolume is left", lambda: not self.api.list("PersistentVolume"), 180)
        until("nothing is left on the node", lambda: not self.left(), 60)

    def left(self) -> list[str]:
        """Return what is left on the node of any volume."""
        mounts = [line for line in self.lab.mounts() if "kubernetes.io" in line and "csi" in line]
        devices = leaks.loops_below(self.plugin.folder).items()
        loops = [f"{device}: {file}" for device, file in devices if file.name != "reflink.img"]
        records = subprocess.run(
            ["find", self.lab.path(RECORDS), "-type", "f"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        return [*mounts, *loops, *records, *self.plugin.volumes(), *self.plugin.images("reflink")]

    def _runs(self, name: str) -> bool:
        status: dict[str, Any] = (self.api.get("Pod", name) or {}).get("status", {})
        containers = status.get("containerStatuses", [])
        return status.get("phase") == "Running" and all(each["ready"] for each in containers)
