"""Build Kubernetes' tests of external storage once, from the Go module in tools/external_storage.

    <cache>/external-storage-<version>-<digest of the module and of the flags>/bin/external-storage

About 10 minutes of processor time, and as much room meanwhile as Kubernetes itself takes. Only `make e2e`
asks for it. Standard library only.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import kube_programs
from debian_packages import alone
from gotools import CACHE, TREE

if TYPE_CHECKING:
    from pathlib import Path

MODULE = TREE / "tools" / "external_storage"
NAME = "external-storage"


def home() -> Path:
    """Return the folder of the built program, whether it is built or not."""
    asked = hashlib.sha256(_flags().encode())
    for name in ("go.mod", "go.sum", "main.go"):
        asked.update((MODULE / name).read_bytes())
    return CACHE / f"{NAME}-{_version()[1:]}-{asked.hexdigest()[:12]}"


def program() -> Path:
    """Return the program, building it on first use.

    Raises:
        gotools.Unavailable: no Go, no modules, no room, or it does not compile.
    """
    folder = home()
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with alone(CACHE / f"{folder.name}.lock"):
            if not folder.exists():  # the process that held the lock may have built it
                with kube_programs.workshop(folder, MODULE) as shop:
                    shop.build(NAME, ".", _flags())
    return folder / "bin" / NAME


def _version() -> str:
    return kube_programs.versions()["k8s.io/kubernetes"]


def _flags() -> str:
    return kube_programs.kubernetes_flags(_version())
