"""The real csi-sanity suite against a driver: how it is run, and what it may leave out."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from support.driver import Driver

#: Fewer than this pass only where the suite did not run as a whole.
_LEAST_PASSED = 60

_LOCAL = "a local volume has nothing to attach from afar (attachRequired: false)"
_GROUPS = "group snapshots are not offered; the service answers UNIMPLEMENTED"
_FIXED = "no parameter of a volume can be modified"

#: What the suite leaves out, and why: all of it is optional in CSI and not advertised here.
OPTIONAL = {
    "ControllerPublishVolume": _LOCAL,
    "ControllerUnpublishVolume": _LOCAL,
    "volume lifecycle": f"walks through ControllerPublishVolume; {_LOCAL}",
    "ExpandVolume [Controller Server]": "a local volume grows in NodeExpandVolume, where its storage is",
    "GroupController": _GROUPS,
    "ModifyVolume": _FIXED,
    "volume attribute class": _FIXED,
    "with accessibility requirements": "a snapshot's topology is its volume's; no capability of its own yet",
    "NodeGetStorageHealth": "the health of a node's storage as a whole is not offered",
}
#: CSI 1.13 replaced the volume condition by these, which are offered by choice.
OPTIONAL_BEFORE_1_13 = {
    "ControllerGetVolumeHealth": "newer_capabilities: false offers the volume condition only",
    "ControllerListVolumeHealth": "as above",
    "NodeGetVolumeHealth": "as above",
}


@dataclass(frozen=True)
class Outcome:
    """What came of the suite: the names of its specs."""

    passed: list[str]
    failed: list[str]
    skipped: list[str]

    def assert_sound(self, *, newer: bool) -> None:
        """Nothing failed, only what is optional was skipped, and the suite ran as a whole.

        `newer` is the driver's setting `newer_capabilities`.
        """
        optional = OPTIONAL if newer else OPTIONAL | OPTIONAL_BEFORE_1_13
        unexplained = [name for name in self.skipped if not any(word in name for word in optional)]
        assert not self.failed, f"failed: {self.failed}"
        assert not unexplained, f"skipped, and not because it is optional: {unexplained}"
        assert len(self.passed) > _LEAST_PASSED, "the suite did not run as a whole"


def run(tool: Path, driver: Driver, *, direct: bool, size: int = 1 << 30, timeout_s: float = 240) -> Outcome:
    """Run the suite with volumes of `size` bytes, which it also grows to twice that."""
    work = driver.scratch / "sanity"
    work.mkdir()
    report = work / "report.json"
    arguments = [
        f"-csi.endpoint=unix://{driver.socket}",
        f"-csi.mountdir={work / 'mount'}",
        f"-csi.stagingdir={work / 'staging'}",
        f"-csi.testvolumesize={size}",
        f"-csi.testvolumeexpandsize={2 * size}",
        f"-ginkgo.json-report={report}",
        "-ginkgo.no-color",
    ]
    if direct:
        parameters = work / "parameters.yaml"
        parameters.write_text(yaml.safe_dump({"katacsi.io/direct": "true"}))
        arguments.append(f"-csi.testvolumeparameters={parameters}")
    answer = subprocess.run(
        [tool, *arguments], cwd=work, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if answer.returncode:
        print(answer.stdout[-20000:])
    return _outcome(json.loads(report.read_text()))


def _outcome(suites: list[dict[str, Any]]) -> Outcome:
    specs = [spec for suite in suites for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]
    return Outcome(
        passed=[_name(spec) for spec in specs if spec["State"] == "passed"],
        failed=[_name(spec) for spec in specs if spec["State"] not in ("passed", "skipped", "pending")],
        skipped=[_name(spec) for spec in specs if spec["State"] == "skipped"],
    )


def _name(spec: dict[str, Any]) -> str:
    return " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])
