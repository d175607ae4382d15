"""The real csi-sanity suite against the running driver."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GIB = 1 << 30

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


@pytest.mark.parametrize("newer", [False, True], ids=["csi-1.12", "csi-1.13"])
@pytest.mark.parametrize("mode", ["host", "direct"])
def test_the_suite_passes(
    mode: str, newer: bool, scratch: Path, gotool: Callable[[str], Path], record_property: Callable[..., None]
) -> None:
    """csi-sanity finds nothing wrong, in host and in direct mode, and skips only what CSI makes optional."""
    # Online growth of ext4 needs CAP_SYS_RESOURCE, which a test machine may lack; xfs grows without it.
    settings = {"default_filesystem": "xfs" if mode == "host" else "ext4", "newer_capabilities": newer}
    with Driver(scratch, settings=settings) as driver:
        specs = list(_run(gotool("csi-sanity"), driver, direct=mode == "direct"))
    failed = [_name(spec) for spec in specs if spec["State"] not in ("passed", "skipped", "pending")]
    passed = [spec for spec in specs if spec["State"] == "passed"]
    left_out = [_name(spec) for spec in specs if spec["State"] == "skipped"]
    optional = OPTIONAL if newer else OPTIONAL | OPTIONAL_BEFORE_1_13
    unexplained = [name for name in left_out if not any(word in name for word in optional)]
    print(f"csi-sanity, {mode}: {len(passed)} passed, {len(failed)} failed, {len(left_out)} skipped")
    record_property("csi_sanity", f"{mode}: {len(passed)} passed, {len(left_out)} skipped")
    assert not failed
    assert not unexplained, "skipped, and not because it is optional"
    assert len(passed) > 60, "the suite did not run as a whole"


def _run(tool: Path, driver: Driver, *, direct: bool) -> Iterator[dict[str, Any]]:
    """Run the suite; give its specs."""
    work = driver.scratch / "sanity"
    work.mkdir()
    report = work / "report.json"
    arguments = [
        f"-csi.endpoint=unix://{driver.socket}",
        f"-csi.mountdir={work / 'mount'}",
        f"-csi.stagingdir={work / 'staging'}",
        f"-csi.testvolumesize={GIB}",
        f"-csi.testvolumeexpandsize={2 * GIB}",
        f"-ginkgo.json-report={report}",
        "-ginkgo.no-color",
    ]
    if direct:
        parameters = work / "parameters.yaml"
        parameters.write_text(yaml.safe_dump({"katacsi.io/direct": "true"}))
        arguments.append(f"-csi.testvolumeparameters={parameters}")
    answer = subprocess.run(
        [tool, *arguments], cwd=work, capture_output=True, text=True, timeout=240, check=False
    )
    if answer.returncode:
        print(answer.stdout[-20000:])
    for suite in json.loads(report.read_text()):
        yield from (spec for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It")


def _name(spec: dict[str, Any]) -> str:
    return " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])
