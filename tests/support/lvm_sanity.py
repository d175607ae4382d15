"""The real csi-sanity suite against the driver with an lvm pool, on the disks of the lab's machine."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from sanity import test_csi_sanity as sanity
from support.driver import Driver
from support.lvm_pools import THIN_POOL

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 << 20


def assert_passes(tool: Path, scratch: Path, volume_group: str, *, kind: str, mode: str) -> None:
    """Run the suite with volumes of a kind in a mode: nothing may fail, only what is optional be skipped."""
    pool: dict[str, Any] = {"backend": "lvm", "volume_group": volume_group, "devices": ["/dev/ubd*"]}
    if kind == "thin":
        pool["thin_pool"] = THIN_POOL
    settings = {"default_filesystem": "ext4", "newer_capabilities": True, "pools": {"default": pool}}
    with Driver(scratch, settings=settings) as driver:
        specs = _run(tool, driver, direct=mode == "direct")
    failed = [sanity._name(spec) for spec in specs if spec["State"] not in ("passed", "skipped", "pending")]
    left_out = [sanity._name(spec) for spec in specs if spec["State"] == "skipped"]
    unexplained = [name for name in left_out if not any(word in name for word in sanity.OPTIONAL)]
    assert not failed
    assert not unexplained, "skipped, and not because it is optional"
    assert sum(spec["State"] == "passed" for spec in specs) > 60, "the suite did not run as a whole"


def _run(tool: Path, driver: Driver, *, direct: bool) -> list[dict[str, Any]]:
    work = driver.scratch / "sanity"
    work.mkdir()
    report = work / "report.json"
    arguments = [
        f"-csi.endpoint=unix://{driver.socket}",
        f"-csi.mountdir={work / 'mount'}",
        f"-csi.stagingdir={work / 'staging'}",
        f"-csi.testvolumesize={SIZE}",
        f"-csi.testvolumeexpandsize={2 * SIZE}",
        f"-ginkgo.json-report={report}",
        "-ginkgo.no-color",
    ]
    if direct:
        parameters = work / "parameters.yaml"
        parameters.write_text(yaml.safe_dump({"katacsi.io/direct": "true"}))
        arguments.append(f"-csi.testvolumeparameters={parameters}")
    answer = subprocess.run(
        [tool, *arguments], cwd=work, capture_output=True, text=True, timeout=1200, check=False
    )
    if answer.returncode:
        print(answer.stdout[-20000:])
    suites = json.loads(report.read_text())
    return [spec for suite in suites for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]
