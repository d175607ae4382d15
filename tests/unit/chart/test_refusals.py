"""Values that cannot work are refused before anything is installed, with words that name key and remedy."""

from __future__ import annotations

import shutil

import pytest
import yaml

import chart_goldens
from chart_goldens import CHART, LOCAL, Case, Refused
from support.chart import merged

HERE = "/var/lib/katacsi/default"


def pool(**more):
    return {"pools": {"default": {"backend": "loopfile", "directory": HERE} | more}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pool(directry="/x"), ["/pools/default", "'directry' not allowed"]),
        (pool(quota="10GB"), ["/pools/default/quota", "'10GB' does not match"]),
        (pool(directory="srv"), ["/pools/default/directory", "'srv' does not match pattern '^/'"]),
        (pool(backend="lmv"), ["pools.default.backend", '"lmv" is no backend', "loopfile, lvm"]),
        ({"pools": {"Fast": LOCAL["pools"]["default"]}}, ["invalid propertyName 'Fast'"]),
        (pool(directory="/var/lib/kubelet/pool"), ["lies in the kubelet's own folder", HERE]),
        (pool(directory="/var/lib/kubelet"), ["lies in the kubelet's own folder"]),
        (
            {"pools": {"second": {"backend": "loopfile", "directory": HERE}}},
            ["pools.second.directory", "is the folder of pool default already"],
        ),
        (pool(directory="/srv/"), ["pools.default.directory: write /srv"]),
        (pool(directory="/usr"), ["/usr is a folder of the system", HERE]),
        (pool(directory="/disk", require_mount=True), ["the folder above /disk", "/srv/katacsi/default"]),
        (
            {"backends": {"far": {"scope": "network"}}, "pools": {"far": {"backend": "far"}}},
            ["default live on a node and far on the network", "Install the chart twice"],
        ),
        ({"driverName": "Local"}, ["/driverName", "'Local' does not match"]),
        ({"config": {"default_filesystem": "ntfs"}}, ["/config/default_filesystem", "'ext4', 'xfs'"]),
        ({"config": {"driver_name": "x"}}, ["/config", "'driver_name' not allowed"]),
        ({"config": {"timeouts": {"drain": 60}}}, ["terminationGracePeriodSeconds: 40", "drain (60)"]),
        ({"kubelet": {"root": "/var/lib/kubelet/"}}, ["/kubelet/root"]),
        ({"kubelet": {"registraton": "driver"}}, ["/kubelet", "'registraton' not allowed"]),
        ({"csiDriver": {"nodeAllocatableUpdatePeriodSeconds": 5}}, ["minimum: got 5, want 10"]),
        ({"storageClasses": {"katacsi": {"direct": "ture"}}}, ["/storageClasses/katacsi/direct", "'auto'"]),
        ({"storageClasses": {"katacsi": {"pool": "fast"}}}, ['no pool "fast"; there are: default']),
        (
            {"storageClasses": {"x": {"parameters": {"katacsi.io/mkfs-option": "-i 1"}}}},
            ["'katacsi.io/mkfs-option'", "katacsi.io/mkfs-options"],
        ),
        (
            {"storageClasses": {"x": {"parameters": {"lvm.katacsi.io/tpe": "raid1"}}}},
            ["'lvm.katacsi.io/tpe'", "lvm.katacsi.io/type"],
        ),
        (
            {"storageClasses": {"x": {"direct": True, "fsType": "btrfs"}}},
            ["storageClasses.x.fsType", "ext4 or xfs"],
        ),
        (
            {"metrics": {"inventory": "Loopback", "serviceMonitor": {"enabled": True}}},
            ["keeps Prometheus away"],
        ),
    ],
    ids=lambda part: " ".join(part)[:40] if isinstance(part, list) else "",
)
def test_bad_values_are_refused(values, words):
    """Each refusal names the key, what is wrong with it, and what is legal."""
    with pytest.raises(Refused) as refused:
        chart_goldens.template(Case(merged(LOCAL, values)))
    for word in words:
        assert word in str(refused.value)


def test_no_pool_is_refused():
    """Without a pool there is no driver, and the message has an example."""
    with pytest.raises(Refused, match=r"pools: there is none(.|\n)*directory: /var/lib/katacsi/default"):
        chart_goldens.template(Case({}))


def test_several_pools_need_a_default_or_a_name():
    """A class that names no pool is refused where nobody could say which one it means."""
    pools = {name: {"backend": "loopfile", "directory": f"/srv/{name}"} for name in ("fast", "slow")}
    with pytest.raises(Refused, match=r"none is named default(.|\n)*one of fast, slow"):
        chart_goldens.template(Case({"pools": pools}))


def test_an_old_cluster_is_refused():
    """A Kubernetes without admission policies is refused by its version."""
    with pytest.raises(Refused, match=r"kubeVersion: >=1\.30\.0-0"):
        chart_goldens.template(Case(LOCAL, kubernetes="1.29.9"))


def test_a_backend_of_ones_own_is_taken_when_it_is_named():
    """An image with another backend needs one line of values, and its keys are its own."""
    values = {
        "backends": {"mine": {"scope": "local"}},
        "pools": {"default": {"backend": "mine", "shelf": 7}},
        "extraHostPaths": [{"path": "/srv/mine"}],
        "storageClasses": {"katacsi": {"parameters": {"mine.katacsi.io/shelf": "8"}}},
    }
    assert "/srv/mine" in chart_goldens.template(Case(values))


def test_values_of_the_former_version_are_taken(tmp_path):
    """`helm upgrade --reset-then-reuse-values` from the last release renders what a fresh install does."""
    for former in sorted((CHART.parents[1] / "tests/unit/chart/former").glob("values-*.yaml")):
        values = merged(yaml.safe_load(former.read_text("utf-8")), LOCAL)
        chart = tmp_path / former.stem
        shutil.copytree(CHART, chart)
        assert chart_goldens.template(Case(values), chart=chart)
