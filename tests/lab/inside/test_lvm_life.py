"""`katacsi serve` on a node with a distribution's kernel, udev, device-mapper and every capability."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from katacsi.csi.client import Client
from katacsi.model import MIB
from katacsi.testing import kubelet
from katacsi.testing.process import ServeProcess
from support.real_lvm import DEVICES, VG, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = 45
ENGINE = "qemu"
#: A driver that starts has Python to load, in a machine that computes slowly.
START_S = 120


async def test_a_volume_lives_on_a_distributions_kernel(scratch: Path, group: Callable[..., None]) -> None:
    """An LV is made, formatted, mounted, grown under its pod, staged anew with its bytes, and freed."""
    group()
    pools = {"default": {"backend": "lvm", "volume_group": VG, "devices": list(DEVICES)}}
    driver = ServeProcess(scratch, settings={"pools": pools})
    driver.spawn()
    try:
        async with Client(driver.socket) as client:
            await client.wait_ready(START_S)
            volume = kubelet.Volume(
                "pvc-1",
                staging=scratch / "staging",
                target=scratch / "pod" / "mount",
                client=client,
                parameters={},
            )
            await volume.create()
            await volume.stage()
            await volume.publish()
            file = volume.target / "file"
            file.write_text("kept")
            before = os.statvfs(volume.target).f_blocks
            assert (await volume.expand(256 * MIB)).capacity_bytes == 256 * MIB
            assert os.statvfs(volume.target).f_blocks > 3 * before
            await volume.unpublish()
            await volume.unstage()
            assert not run("lvs", "--noheadings", "--select", "lv_active=active", VG)
            await volume.stage()
            await volume.publish()
            assert file.read_text() == "kept"
            await volume.unpublish()
            await volume.unstage()
            await volume.delete()
            assert not run("lvs", "--noheadings", VG)
    finally:
        print("\n".join(driver.tail(50)))
        driver.stop()
