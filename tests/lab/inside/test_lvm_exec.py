"""Whose LVM is run, and whether it waits for udev: from a container, its own or the host's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import lvm_pools

SECONDS = 25

volume_group = pytest.fixture(lvm_pools.volume_group, scope="module", name="volume_group")

#: One volume's life, in a process of a container.
LIFE = """
import asyncio, json, sys
from katacsi.backends.lvm import LvmBackend, commands
from katacsi.backends.api import PoolContext
from katacsi.testing import blockio
from support.lvm_pools import request
from support.real_lvm import DEVICES

async def life(settings):
    pool = LvmBackend(settings, PoolContext("pool", "test.katacsi.io", "node-1"))
    await pool.start()
    volume = await pool.create(request("a"))
    device = await pool.attach(volume.id, {}, {})
    blockio.write(device, b"kept")
    path = str(device.path)
    await pool.detach(volume.id)
    device = await pool.attach(volume.id, {}, {})
    data = blockio.read(device, 4).decode()
    await pool.detach(volume.id)
    gone = await pool.attached(volume.id) is None
    await pool.delete(volume.id)
    await pool.close()
    return {
        "program": commands._program(settings)[0], "udev": commands.udev_is_there(settings),
        "device": path, "data": data, "gone": gone,
    }

told = json.loads(sys.argv[1])
settings = LvmBackend.Settings(devices=DEVICES, **told)
print(json.dumps(asyncio.run(life(settings))))
"""


def in_a_container(prepare: str, **settings: str) -> dict[str, object]:
    """Run a volume's life with namespaces of its own, but the host's processes, /dev and locks."""
    script = f'{prepare}; exec "$@"'
    argv = ["unshare", "--mount", "--ipc", "--uts", "--net", "--", "bash", "-c", script, "container"]
    answer = subprocess.run(
        [*argv, sys.executable, "-c", LIFE, json.dumps(settings)],
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LAB_DISKS": os.environ["LAB_DISKS"],
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["linear", "thin"])
def test_a_container_without_udevs_semaphores_makes_its_nodes(volume_group, kind):
    """Beside a host's udev, but with semaphores of its own, LVM does not wait for it, and works."""
    found = in_a_container("true", volume_group=volume_group, thin_pool=lvm_pools.THIN_POOL, type=kind)
    assert (found["program"], found["udev"]) == ("lvm", False)
    assert (found["data"], found["gone"]) == ("kept", True)


@pytest.mark.parametrize("chosen", ["host", "auto"])
def test_the_hosts_lvm_is_run(volume_group, chosen):
    """With `exec: host`, or `auto` in an image without LVM, the host's LVM runs, and waits for its udev."""
    lvm = Path(shutil.which("lvm")).resolve()
    # What an image without LVM has in its place: nothing that can be run.
    hidden = f"mount --bind /dev/null {lvm}" if chosen == "auto" else "true"
    found = in_a_container(hidden, volume_group=volume_group, exec=chosen)
    assert (found["program"], found["udev"]) == ("nsenter", True)
    assert (found["data"], found["gone"]) == ("kept", True)
    assert found["device"].startswith("/dev/mapper/")
