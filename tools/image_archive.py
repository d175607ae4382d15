#!/usr/bin/env python3
"""The image as tests use it: built from this tree without a registry, and without a builder installed.

    image_archive.py                         print the path of the archive, building it on first use

    <cache>/image/tree-…/                    buildah and mmdebstrap: Debian packages, unpacked, not installed
    <cache>/image/base-<digest>.tar          the base (tools/image_base.py)
    <cache>/image/storage/                   buildah's layers: only what changed is built again
    <cache>/image/katacsi-<digest>.tar       the image, in docker's archive format

The Containerfile is the one that operators use. Root; standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from debian_packages import Unavailable as NoPackages
from debian_packages import alone
from image import TREE, Builder, Unavailable
from image_base import TOOLS, Base, command

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REFERENCE", "Unavailable", "archive"]

#: The image has this name after an import; nothing can be pulled from there.
REFERENCE = "katacsi.test/katacsi:1"
#: More bytes of layers than this are mostly old ones: all are dropped, and built anew.
STORAGE_BYTES = 3 << 30
#: So many images of other trees are kept.
KEPT = 3
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


def archive(reference: str = REFERENCE) -> Path:
    """Return the image of this tree as a file for `ctr images import`, building it when it is not there.

    Raises:
        Unavailable: not root, no packages, no network, or a step of the build failed; what it said last is
            in the message.
    """
    if os.geteuid() != 0:
        raise Unavailable("building the image needs root: sudo make test TIER=image")
    try:
        tools = TOOLS.tree()
        base = Base.of_this_machine()
        wanted = TOOLS.folder / f"katacsi-{_digest(base.name, reference)}.tar"
        with alone(TOOLS.folder / "build.lock"):
            if not wanted.exists():
                _build(tools, base, wanted, reference)
                _forget_old(wanted)
        wanted.touch()
    except NoPackages as error:
        raise Unavailable(str(error)) from error
    return wanted


def _build(tools: Path, base: Base, wanted: Path, reference: str) -> None:
    began = time.monotonic()
    storage = TOOLS.folder / "storage"
    if storage.exists() and _bytes_below(storage) > STORAGE_BYTES:
        shutil.rmtree(storage)
    tar = base.archive(tools)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=TOOLS.folder) as name:
        scratch = Path(name)
        builder = _builder(tools, storage, scratch)
        # As a context of its own, with nothing in it but the base.
        (scratch / "base").mkdir()
        os.link(tar, scratch / "base" / "base.tar")
        (scratch / "base" / "Containerfile").write_text("FROM scratch\nADD base.tar /\n", "utf-8")
        builder.run("bud", "--layers", "--tag", f"localhost/{base.name}", str(scratch / "base"))
        builder.build("localhost/katacsi", f"localhost/{base.name}")
        builder.save("localhost/katacsi", scratch / "image.tar", reference)
        (scratch / "image.tar").rename(wanted)
    print(f"image: built in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _builder(tools: Path, storage: Path, scratch: Path) -> Builder:
    """Return a buildah that has its own storage, asks no registry, and needs no other program."""
    settings = scratch / ".config" / "containers"
    settings.mkdir(parents=True)
    (settings / "policy.json").write_text(POLICY, "utf-8")
    (settings / "registries.conf").write_text("", "utf-8")
    storage.mkdir(exist_ok=True)
    variables = {
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "CONTAINERS_REGISTRIES_CONF": str(settings / "registries.conf"),
        "BUILDAH_ISOLATION": "chroot",  # a container in a container may be refused, a chroot is not
    }
    # An overlay's layers cannot lie on an overlay, as the root of a container is one.
    on = subprocess.run(
        ["stat", "--file-system", "--format=%T", storage], capture_output=True, text=True, check=True
    )
    driver = "vfs" if on.stdout.strip().startswith("overlay") else "overlay"
    return Builder(
        "buildah",
        (
            *command(tools, variables),
            *(
                "buildah",
                "--root",
                str(storage),
                "--runroot",
                str(scratch / "run"),
                "--storage-driver",
                driver,
            ),
        ),
        quiet=True,
    )


def _digest(*more: str) -> str:
    """Return a digest of what an image is made of."""
    asked = hashlib.sha256("\n".join(more).encode())
    for path in _context():
        asked.update(f"{path.relative_to(TREE)}\n".encode() + path.read_bytes())
    return asked.hexdigest()[:12]


def _context() -> Iterator[Path]:
    """List the files that a builder sees: .dockerignore leaves out all but what it names."""
    lines = (TREE / ".dockerignore").read_text("utf-8").splitlines()
    yield from (TREE / ".dockerignore", TREE / "Containerfile")
    for name in (line[1:] for line in lines if line.startswith("!")):
        below = sorted((TREE / name).rglob("*")) if (TREE / name).is_dir() else [TREE / name]
        yield from (path for path in below if path.is_file() and path.suffix != ".pyc")


def _forget_old(wanted: Path) -> None:
    files = sorted(TOOLS.folder.glob("katacsi-*.tar"), key=lambda file: file.stat().st_mtime)
    for file in [file for file in files if file != wanted][:-KEPT]:
        file.unlink()


def _bytes_below(folder: Path) -> int:
    said = subprocess.run(
        ["du", "--summarize", "--block-size=1", folder], capture_output=True, text=True, check=True
    )
    return int(said.stdout.split()[0])


if __name__ == "__main__":
    try:
        print(archive())
    except Unavailable as error:
        sys.exit(f"image: {error}")
