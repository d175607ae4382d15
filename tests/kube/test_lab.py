"""The lab itself: what a killed session leaves is found and removed by the next."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from kube_cluster import loop_devices, sweep
from kube_machine import hierarchies
from support.kube_http import until
from support.kube_lab import TREE

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube_lab import Lab

SESSION = """
import subprocess, sys, time
from pathlib import Path
from kube_cluster import bound_cluster
with bound_cluster(Path(sys.argv[1])) as cluster:
    cluster.up(bound=True)
    disk = cluster.folder / "disk"
    disk.write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--find", disk], check=True)
    # A filesystem of ours that is seen elsewhere by another path, as in a driver's container.
    image, mount = cluster.folder / "pool.img", Path(sys.argv[2])
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    (mount / "volume").write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--find", mount / "volume"], check=True)
    subprocess.run(["umount", "--lazy", mount], check=True)
    print(cluster.folder, flush=True)
    time.sleep(600)
"""


def test_a_killed_session_leaves_nothing_behind(lab: Lab, scratch: Path):
    """Its processes end with it, by the kernel; its devices, cgroups and files go at the next start."""
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, scratch, elsewhere],
        env={"PYTHONPATH": str(TREE / "tools"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdout is not None
        folder = scratch / session.stdout.readline().strip().rpartition("/")[2]
        assert len(loop_devices(folder)) == 3
        assert _cgroups(folder)
        session.kill()
    until("its processes have ended", lambda: not _processes(folder))
    sweep(scratch)
    assert not folder.exists()
    assert not loop_devices(folder)
    assert not _cgroups(folder)
    assert lab.api.list("Node"), "the cluster of a session that lives is left alone"


def _processes(folder: Path) -> list[str]:
    """Return the processes that have the folder on their command line."""
    said = subprocess.run(["pgrep", "--full", str(folder)], capture_output=True, text=True, check=False)
    return said.stdout.split()


def _cgroups(folder: Path) -> list[Path]:
    return [top / folder.name for top in hierarchies() if (top / folder.name).exists()]
