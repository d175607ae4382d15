"""The real csi-sanity suite where online growth of ext4 is allowed: what production has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import csi_sanity
from support.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_suite_passes_with_mounted_ext4(scratch: Path, gotool: Callable[[str], Path]) -> None:
    """csi-sanity finds nothing wrong with host-mounted ext4 volumes, which grow while they are mounted."""
    settings = {"default_filesystem": "ext4", "newer_capabilities": True}
    with Driver(scratch, settings=settings) as driver:
        outcome = csi_sanity.run(gotool("csi-sanity"), driver, direct=False)
    outcome.assert_sound(newer=True)
    assert any("NodeExpandVolume" in name for name in outcome.passed)
