"""The real csi-sanity suite against the driver with an lvm pool, on the disks of the lab's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support import csi_sanity
from support.driver import Driver
from support.lvm_pools import THIN_POOL
from support.real_lvm import DEVICES

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 << 20


def assert_passes(tool: Path, scratch: Path, volume_group: str, *, kind: str, mode: str) -> None:
    """Run the suite with volumes of a kind in a mode: nothing may fail, only what is optional be skipped."""
    pool: dict[str, Any] = {"backend": "lvm", "volume_group": volume_group, "devices": list(DEVICES)}
    if kind == "thin":
        pool["thin_pool"] = THIN_POOL
    settings = {"default_filesystem": "ext4", "newer_capabilities": True, "pools": {"default": pool}}
    with Driver(scratch, settings=settings) as driver:
        outcome = csi_sanity.run(tool, driver, direct=mode == "direct", size=SIZE, timeout_s=1200)
    outcome.assert_sound(newer=True)
