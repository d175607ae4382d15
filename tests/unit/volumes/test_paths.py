"""Paths in requests, before anything is done with them."""

import pytest

from katacsi.errors import InvalidRequest
from katacsi.volumes import paths


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pvc-1/mount",
        "/a b/ü/…",
        "/a/..b/c..",
        "/" + "a" * 4094,
    ],
)
def test_a_plain_path_is_taken(path):
    """Spaces, UTF-8, dots within a name and the longest path of Linux are fine."""
    paths.check("target_path", path)


@pytest.mark.parametrize(
    "path",
    ["", "relative/path", "./a", "/a/../b", "/..", "/a/..", "/", "//", "/a\0b", "/" + "ü" * 2047 + "aa"],
    ids=[
        "empty",
        "relative",
        "dot",
        "climbs",
        "climbs-at-root",
        "climbs-at-end",
        "root",
        "slashes",
        "zero",
        "4096-bytes",
    ],
)
def test_a_path_that_could_mean_another_place_is_refused(path):
    """A path that climbs, is relative or is the root is refused by the name of its field."""
    with pytest.raises(InvalidRequest) as refusal:
        paths.check("target_path", path)
    assert refusal.value.field == "target_path"
