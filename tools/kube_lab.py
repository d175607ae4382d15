#!/usr/bin/env python3
"""A real Kubernetes of one node on this machine, in namespaces of its own.

    sudo python tools/kube_lab.py up                          # back when pods can run, after 5 to 10 s
    sudo python tools/kube_lab.py exec -- kubectl get nodes   # any command, inside
    sudo python tools/kube_lab.py reboot                      # what is on its disks is kept
    sudo python tools/kube_lab.py down                        # ends all of it, and removes what it left

It is etcd, the API server, the controllers, the scheduler, the kubelet, containerd and runc. Inside are real
paths (/run, /var/lib/kubelet) and ports, unseen from outside; the root and /dev are the machine's.
The cluster lies with its logs in one folder, /var/tmp/katacsi-kubelab. The programs come from
tools/kubetools.py: the first start builds them. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import kube_machine
import kubetools
from kube_cluster import Cluster, Failed

BY_HAND = Path("/var/tmp/katacsi-kubelab")


def why_not() -> str:
    """Say why there is no cluster on this machine, with the remedy; empty when there is one."""
    if os.geteuid() != 0:
        return "needs root: sudo make test TIER=kube"
    if lacking := kube_machine.missing():
        return lacking
    try:
        for name in ("kubectl", "containerd", "kube"):
            kubetools.path(name)
    except kubetools.Unavailable as error:
        return str(error)
    return ""


def _up(cluster: Cluster) -> None:
    if cluster.folder.exists() and not cluster.pid():
        cluster.remove()
    if not cluster.folder.exists():
        cluster.create()
    _say_up(cluster.up())


def _say_up(times: dict[str, float]) -> None:
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items()))


def main() -> int:
    """Do what the verb says; exit code 1 and the reason when it cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=("up", "exec", "reboot", "down"))
    arguments, command = sys.argv[1:], ["bash"]
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, command = arguments[:cut], arguments[cut + 1 :]
    asked = parser.parse_args(arguments)
    cluster = Cluster(BY_HAND)
    if reason := why_not():
        print(f"kube_lab: {reason}", file=sys.stderr)
        return 1
    try:
        match asked.verb:
            case "up":
                _up(cluster)
            case "exec":
                argv = cluster.entry(*command)
                os.execvpe(argv[0], argv, cluster.environment())
            case "reboot":
                cluster.down()
                _say_up(cluster.up())
            case "down" if cluster.folder.exists():
                cluster.remove()
    except (Failed, kubetools.Unavailable) as error:
        print(f"kube_lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
