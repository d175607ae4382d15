"""The kubelet's folder at a second path of its peer group, as a bind of a disk's folder has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kube_http import until
from support.kube_lab import KUBELET
from support.kube_objects import claim, pod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube_work import Work

SECOND = "/run/second"


@pytest.fixture
def second(work: Work) -> Iterator[str]:
    """The second path; each mount of a volume appears there, too."""
    work.lab.run("mkdir", "-p", SECOND)
    work.lab.run("mount", "--bind", str(KUBELET), SECOND)
    yield SECOND
    # Without its peers: else a volume that a failed test has left would go at the first path, too.
    work.lab.run("mount", "--make-rprivate", SECOND)
    work.lab.run("umount", "--recursive", SECOND)


@pytest.mark.parametrize(
    ("storage_class", "how"),
    [("host", {}), ("direct", {"runtime": "kata"}), ("host", {"block": True})],
    ids=["host", "direct", "block"],
)
def test_a_volume_that_is_mounted_at_two_paths_is_taken_down(
    work: Work, second: str, storage_class: str, how
):
    """When its pod and its claim go, it is unstaged and deleted: its copies are no users of it."""
    mode = {"volumeMode": "Block"} if "block" in how else {}
    work.make(claim("two", storage_class, **mode), pod("two", "two", **how))
    work.running("two")
    seen = [line for line in work.lab.mounts() if f" {second}/" in line and "csi" in line]
    assert seen, "the volume is mounted at one path only"
    work.delete("Pod", "two", limit_s=60)
    work.delete("PersistentVolumeClaim", "two", limit_s=60)
    until("the volume is deleted", lambda: not work.plugin.volumes(), 60)
    assert not [line for line in work.lab.mounts() if f" {second}/" in line and "csi" in line]
