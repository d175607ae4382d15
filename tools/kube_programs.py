"""Build Kubernetes, etcd and the CSI sidecars once, from the Go module in tools/kube.

    <cache>/kube-<version>-<digest of the module and of the flags>/bin/    kube, etcd, csi-provisioner, …
    <cache>/kube-<version>-<digest>/crds/                                  the snapshot CRDs

About 15 minutes of processor time, 3 GiB of memory, and for that time 7 GiB beside the cache. What stays is
half a GiB: the downloaded modules and the compiler's cache are dropped. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from debian_packages import alone
from gotools import CACHE, TREE, Unavailable, find_go, go_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = TREE / "tools" / "kube"
#: The release that the module's `go` line asks for.
GO = (1, 26)
SCRATCH_BYTES = 7 << 30
CSI = "github.com/kubernetes-csi"
SNAPSHOT_CLIENT = f"{CSI}/external-snapshotter/client/v8"


@dataclass(frozen=True)
class Program:
    """A program: its module, whose version it is stamped with, and its package."""

    module: str
    package: str


PROGRAMS = {
    "kube": Program("k8s.io/kubernetes", "."),
    "etcd": Program("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    "csi-provisioner": Program(
        f"{CSI}/external-provisioner/v6", f"{CSI}/external-provisioner/v6/cmd/csi-provisioner"
    ),
    "csi-snapshotter": Program(
        f"{CSI}/external-snapshotter/v8", f"{CSI}/external-snapshotter/v8/cmd/csi-snapshotter"
    ),
    "snapshot-controller": Program(
        f"{CSI}/external-snapshotter/v8", f"{CSI}/external-snapshotter/v8/cmd/snapshot-controller"
    ),
    "csi-resizer": Program(f"{CSI}/external-resizer/v2", f"{CSI}/external-resizer/v2/cmd/csi-resizer"),
    "csi-attacher": Program(f"{CSI}/external-attacher/v4", f"{CSI}/external-attacher/v4/cmd/csi-attacher"),
}


def versions() -> dict[str, str]:
    """Return the version of each module that go.mod requires."""
    return dict(re.findall(r"^\t(\S+) (v\S+)", (MODULE / "go.mod").read_text("utf-8"), re.MULTILINE))


def link_flags(name: str) -> str:
    """Return the linker flags of a program; they give it the version that it prints."""
    version = versions()[PROGRAMS[name].module]
    return kubernetes_flags(version) if name == "kube" else f"-s -w -X main.version={version}"


def kubernetes_flags(version: str) -> str:
    """Return the linker flags of a program that is Kubernetes' own."""
    major, minor, _ = version[1:].split(".", 2)
    stamps = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "katacsi",
        "buildDate": "2026-01-01T00:00:00Z",
    }
    # Without them all calls itself v0.0.0-master, which no chart's kubeVersion matches.
    packages = ("k8s.io/client-go/pkg/version", "k8s.io/component-base/version")
    return " ".join(
        ["-s -w", *(f"-X {package}.{key}={value}" for package in packages for key, value in stamps.items())]
    )


def home() -> Path:
    """Return the folder of the built programs, whether they are built or not."""
    asked = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        asked.update((MODULE / name).read_bytes())
    for name, program in PROGRAMS.items():
        asked.update(f"{name} {program.package} {link_flags(name)}\n".encode())
    version = versions()["k8s.io/kubernetes"]
    return CACHE / f"kube-{version[1:]}-{asked.hexdigest()[:12]}"


def programs() -> Path:
    """Return the folder with `bin` and `crds`, building it on first use.

    Raises:
        Unavailable: no Go, no modules, no room, or it does not compile.
    """
    folder = home()
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with alone(CACHE / f"{folder.name}.lock"):
        if not folder.exists():  # the process that held the lock may have built it
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    """Build all programs, and copy the CRDs."""
    with workshop(folder, MODULE) as shop:
        _say("downloading half a GiB of modules; building them takes 15 minutes of a processor, once")
        shop.go("mod", "download", what="downloading the modules (GOPROXY)")
        _copy_crds(shop, shop.finished / "crds")
        for program, what in PROGRAMS.items():
            shop.build(program, what.package, link_flags(program))


@dataclass(frozen=True)
class Workshop:
    """A scratch folder in which a Go module of ours is built."""

    scratch: Path
    module: Path
    compiler: str

    @property
    def finished(self) -> Path:
        """Return the folder that is kept."""
        return self.scratch / "finished"

    def go(self, *arguments: str, what: str) -> str:
        """Run a command of Go in the module, and return what it printed.

        Raises:
            Unavailable: it failed.
        """
        answer = subprocess.run(
            [self.compiler, *arguments],
            cwd=self.module,
            # Writable modules, so that the scratch folder can be removed.
            env=os.environ
            | go_variables()
            | {
                "GOFLAGS": "-modcacherw",
                "GOMODCACHE": str(self.scratch / "modules"),
                "GOCACHE": str(self.scratch / "compiled"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode:
            raise Unavailable(f"{what} failed:\n{answer.stderr[-4000:].strip()}")
        return answer.stdout

    def build(self, name: str, package: str, link: str) -> None:
        """Build a program into `bin`.

        Raises:
            Unavailable: it does not compile.
        """
        began = time.monotonic()
        output = str(self.finished / "bin" / name)
        options = ("-trimpath", "-buildvcs=false", f"-ldflags={link}", "-o", output)
        self.go("build", *options, package, what=f"building {name}")
        _say(f"built {name} in {time.monotonic() - began:.0f} s")


@contextmanager
def workshop(folder: Path, module: Path) -> Iterator[Workshop]:
    """Give a scratch folder to build in; what is finished becomes the folder: all of it is there, or nothing.

    Raises:
        Unavailable: no Go, or no room.
    """
    started = time.monotonic()
    go = find_go(GO)
    free = shutil.disk_usage(CACHE).free
    if free < SCRATCH_BYTES:
        raise Unavailable(
            f"building Kubernetes needs {SCRATCH_BYTES >> 30} GiB in {CACHE}, and {free >> 30} are free:"
            " make room, or set KATACSI_CACHE"
        )
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=CACHE) as name:
        shop = Workshop(Path(name), module, go)
        yield shop
        shop.finished.rename(folder)
    _say(f"{folder} is ready after {time.monotonic() - started:.0f} s")


def _copy_crds(shop: Workshop, target: Path) -> None:
    """Copy the snapshot CRDs out of their module."""
    answer = shop.go("mod", "download", "-json", SNAPSHOT_CLIENT, what="finding the snapshot CRDs")
    target.mkdir(parents=True)
    for file in sorted(Path(json.loads(answer)["Dir"], "config", "crd").glob("snapshot.storage*.yaml")):
        shutil.copyfile(file, target / file.name)


def _say(text: str) -> None:
    print(f"kubetools: {text}", file=sys.stderr, flush=True)
