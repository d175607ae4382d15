"""The configuration of a cluster's kubelet and of its container runtime.

Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What the sandboxes run, and the tests' pods.
IMAGE = "katacsi.test/busybox:1"


def kubelet(cgroup: str) -> dict[str, object]:
    """Return the kubelet's configuration: a small node, which owns no more of the machine than its cgroup."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,  # refused by default since 1.35
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": ["pods"],
        "oomScoreAdj": 0,  # a lower one needs CAP_SYS_RESOURCE
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        # The machine's memory and disk are not the cluster's: nothing is evicted for them.
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "imagefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "1000h",
        "makeIPTablesUtilChains": False,
        "resolvConf": "",
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "2s",  # an expansion is carried out at the next sync of its pod
        "volumeStatsAggPeriod": "10s",
        "maxPods": 60,
    }


def containerd(folder: Path, runc: Path) -> str:
    """Return the configuration of containerd 1.6: two handlers, `runc` and `kata`, and runc behind both."""
    cri = "io.containerd.grpc.v1.cri"
    handlers = "".join(
        f"""
  [plugins."{cri}".containerd.runtimes.{name}]
    runtime_type = "io.containerd.runc.v2"
    [plugins."{cri}".containerd.runtimes.{name}.options]
      BinaryName = "{runc}"
"""
        for name in ("runc", "kata")
    )
    return f"""version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."{cri}"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  [plugins."{cri}".cni]
    bin_dir = "{folder}/cni/bin"
    conf_dir = "{folder}/cni/conf"
  [plugins."{cri}".containerd]
    default_runtime_name = "runc"{handlers}
"""
