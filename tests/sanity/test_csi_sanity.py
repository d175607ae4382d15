"""The real csi-sanity suite against the running driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import csi_sanity
from support.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("newer", [False, True], ids=["csi-1.12", "csi-1.13"])
@pytest.mark.parametrize("mode", ["host", "direct"])
def test_the_suite_passes(
    mode: str, newer: bool, scratch: Path, gotool: Callable[[str], Path], record_property: Callable[..., None]
) -> None:
    """csi-sanity finds nothing wrong, in host and in direct mode, and skips only what CSI makes optional."""
    # Online growth of ext4 needs CAP_SYS_RESOURCE, which a test machine may lack; xfs grows without it.
    settings = {"default_filesystem": "xfs" if mode == "host" else "ext4", "newer_capabilities": newer}
    with Driver(scratch, settings=settings) as driver:
        outcome = csi_sanity.run(gotool("csi-sanity"), driver, direct=mode == "direct")
    passed, failed, skipped = len(outcome.passed), len(outcome.failed), len(outcome.skipped)
    print(f"csi-sanity, {mode}: {passed} passed, {failed} failed, {skipped} skipped")
    record_property("csi_sanity", f"{mode}: {passed} passed, {skipped} skipped")
    outcome.assert_sound(newer=newer)
