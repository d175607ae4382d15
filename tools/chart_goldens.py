#!/usr/bin/env python3
"""Render the chart in its shapes and write what comes out to tests/unit/chart/golden, for a person to review.

    .venv/bin/python tools/chart_goldens.py            write them all
    .venv/bin/python tools/chart_goldens.py local      write one

Labels that every object has are left out, and so is the hash of the configuration.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import kubetools

TREE = Path(__file__).resolve().parent.parent
CHART = TREE / "charts" / "katacsi"
GOLDEN = TREE / "tests" / "unit" / "chart" / "golden"

SNAPSHOTS = "snapshot.storage.k8s.io/v1"
LOCAL: dict[str, Any] = {
    "pools": {"default": {"backend": "loopfile", "directory": "/var/lib/katacsi/default"}}
}
NETWORK: dict[str, Any] = {
    "driverName": "net.katacsi.io",
    "backends": {"far": {"scope": "network"}},
    "pools": {"default": {"backend": "far"}},
    "csiDriver": {"preventPodSchedulingIfMissing": True},
}
LVM: dict[str, Any] = {
    "pools": {
        "fast": {"backend": "lvm", "volume_group": "data", "thin_pool": "thin", "exec": "host"},
        "disk": {"backend": "loopfile", "directory": "/srv/katacsi/disk", "require_mount": True},
    },
    "lvm": {"waitForUdev": True},
    "config": {"default_filesystem": "xfs", "timeouts": {"mkfs": 900}},
    "kata": {"containerRuntime": "k3s"},
    "storageClasses": {
        "katacsi": None,
        "katacsi-direct": None,
        "fast": {"pool": "fast", "direct": True, "default": True, "mountOptions": ["noatime"]},
        "mirrored": {
            "pool": "fast",
            "direct": False,
            "fsType": "xfs",
            "reclaimPolicy": "Retain",
            "parameters": {"lvm.katacsi.io/type": "raid1", "lvm.katacsi.io/mirrors": 1},
        },
    },
}


class Refused(Exception):
    """helm rendered nothing; the message is what it said."""


@dataclass(frozen=True)
class Case:
    """A rendering: values, the cluster that helm is told of, and the templates to keep (default: all)."""

    values: dict[str, Any]
    templates: tuple[str, ...] = ()
    kubernetes: str = "1.37.2"
    apis: tuple[str, ...] = (SNAPSHOTS,)


CASES = {
    "local": Case(LOCAL),
    "network": Case(
        NETWORK,
        (
            "configmap",
            "csidriver",
            "daemonset",
            "deployment",
            "poddisruptionbudget",
            "rbac",
            "serviceaccounts",
        ),
    ),
    "lvm": Case(LVM, ("configmap", "daemonset", "storageclasses", "admission-subpath")),
    "sidecars": Case(
        LOCAL | {"kubelet": {"root": "/data/kubelet", "registration": "registrar"}, "liveness": "sidecar"},
        ("daemonset",),
        apis=(),
    ),
    "kubernetes-1.30": Case(LOCAL, ("csidriver",), "1.30.0"),
    "kubernetes-1.35": Case(LOCAL, ("csidriver",), "1.35.0"),
    "watch-nodes": Case(
        LOCAL | {"watchNodes": {"enabled": True, "release": True}},
        ("watchnodes", "serviceaccounts", "rbac"),
        apis=(),
    ),
    "looking": Case(
        LOCAL
        | {
            "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
            "networkPolicy": {"enabled": True},
            "priorityClass": {"create": True},
        },
        ("monitoring", "prometheusrule", "networkpolicy", "priorityclass"),
    ),
}

_EVERYWHERE = re.compile(
    r"^ *(app\.kubernetes\.io/(name|instance|version|managed-by)|helm\.sh/chart): .*\n", re.MULTILINE
)
_EMPTY = re.compile(r"^( *)(labels|matchLabels|selector):\n(?!\1 )", re.MULTILINE)


def main() -> int:
    """Write the goldens; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of: {' '.join(CASES)}; default: all")
    asked = parser.parse_args()
    if unknown := sorted({*asked.cases} - {*CASES}):
        parser.error(f"no such case: {' '.join(unknown)}")
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in asked.cases or CASES:
        (GOLDEN / f"{name}.yaml").write_text(golden(CASES[name]), "utf-8")
    return 0


def golden(case: Case) -> str:
    """Render a case and leave out what would only tire the reader."""
    return _EMPTY.sub("", _EVERYWHERE.sub("", re.sub(r"\b[0-9a-f]{64}\b", "…", template(case))))


def template(case: Case, *, chart: Path = CHART) -> str:
    """Render a case.

    Raises:
        Refused: helm, the schema or the chart refuses the values.
        kubetools.Unavailable: there is no helm.
    """
    argv: list[str | Path] = [
        "template",
        "katacsi",
        chart,
        "--namespace",
        "katacsi",
        "--kube-version",
        case.kubernetes,
    ]
    argv += [argument for api in case.apis for argument in ("--api-versions", api)]
    argv += [argument for name in case.templates for argument in ("--show-only", f"templates/{name}.yaml")]
    return helm(*argv, values=case.values)


def helm(*arguments: str | Path, values: dict[str, Any] | None = None) -> str:
    """Run helm, without a cluster, with values from standard input; return what it prints.

    Raises:
        Refused: with what helm said.
    """
    more = [] if values is None else ["--values", "-"]
    answer = subprocess.run(
        [kubetools.path("helm"), *arguments, *more],
        # Nothing of the person who runs this: no repositories, no plug-ins, no cluster.
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "KUBECONFIG": "/nonexistent/config"},
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Refused(answer.stderr + answer.stdout)
    return answer.stdout


if __name__ == "__main__":
    sys.exit(main())
