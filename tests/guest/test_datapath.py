"""`make bench-datapath` in small: the real driver's volume over each path, and no second without I/O.

Nothing here looks at how fast it is: that belongs to the machine, and docs/datapath.md says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import guest_packages

BENCH = Path(__file__).resolve().parents[2] / "bench" / "datapath.py"
SECONDS = 3
#: Even an emulated guest on a busy machine does more, so that a second at zero is the path's fault.
CAP = 200

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def measured(scratch_root):
    """What a short run says: one job on a slow device, and a growth."""
    try:
        guest_packages.prepare(fio=True)
    except guest_packages.Unavailable as reason:
        pytest.skip(f"no guest: {reason}")
    folder = scratch_root / "datapath"
    folder.mkdir()
    answer = subprocess.run(
        [
            *(sys.executable, BENCH, "--folder", folder, "--runtime", str(SECONDS), "--size", "32"),
            *("--parts", "capped,growth", "--only", "randwrite-4k-qd32", "--iops-cap", str(CAP)),
            *("--paths", "host,direct,vfs-dio", "--output", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    folder.rmdir()  # nothing is left in it
    return json.loads(answer.stdout)


def test_fio_runs_over_every_path(measured):
    """On the host, in the guest, in the guest by virtio-fs; the cap holds on each."""
    rates = {run["path"]: run["iops"] for run in measured["runs"]}
    assert set(rates) == {"host", "direct", "vfs-dio"}
    assert all(0 < rate < 1.5 * CAP for rate in rates.values())


def test_a_capped_path_has_no_second_without_io(measured):
    """Below what the emulated guest can do, the direct path stands still in no second."""
    direct = next(run for run in measured["runs"] if run["path"] == "direct")
    assert len(direct["seconds"]) >= SECONDS - 1
    assert direct["seconds_at_zero"] == 0


def test_a_growth_stops_no_io(measured):
    """The device, QEMU's disk and ext4 in the guest grow one after the other, and the guest writes on."""
    (growth,) = measured["growths"]
    assert 0 < growth["grown_s"] < growth["filled_s"]
    assert growth["seconds_at_zero"] == 0
