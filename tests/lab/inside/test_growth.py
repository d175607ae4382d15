"""The driver grows mounted volumes where the kernel lets it: with CAP_SYS_RESOURCE."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from katacsi.errors import VolumeInUse
from support import node as nodes
from support.node import MIB

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
async def test_a_mounted_volume_grows_under_its_pod(scratch: Path, fs_type: str) -> None:
    """NodeExpandVolume grows a host-mounted volume while its pod has a file open; once more is success."""
    async with nodes.serving(scratch) as node:
        volume = nodes.Volume(node, fs_type=fs_type, size=320 * MIB)
        target = await volume.up()
        before = os.statvfs(target).f_blocks
        with (target / "file").open("w") as file:
            file.write("kept")
            file.flush()
            for _ in range(2):
                assert await volume.expand(960 * MIB) == 960 * MIB
        assert os.statvfs(target).f_blocks > 2 * before
        assert (target / "file").read_text() == "kept"
        await volume.unpublish()
        await unstage(volume)
        await volume.delete()


async def unstage(volume: nodes.Volume) -> None:
    """Ask as the kubelet does, again: udev looks at what was unmounted, for long where it computes slowly."""
    end = time.monotonic() + 30
    while True:
        try:
            return await volume.unstage()
        except VolumeInUse:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)
