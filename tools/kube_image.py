"""Images without a registry and without a builder: an archive that `ctr images import` takes.

Standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDERS = ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "var")
USERS = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"


def write_busybox(
    target: Path, reference: str, program: Path, scripts: Mapping[str, bytes] | None = None
) -> None:
    """Write an image of one program and its many names; it sleeps, so it serves as a sandbox, too.

    Args:
        target: the archive; it is replaced as a whole.
        reference: the name that pods call it by.
        program: a static busybox.
        scripts: shell scripts by their names in /bin; `entrypoint` gets the arguments of a container.
    """
    scripts = scripts or {}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        _add(tar, "bin/busybox", program.read_bytes(), 0o755)
        _add(tar, "etc/passwd", USERS)
        names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in names:
            if name != "busybox" and name not in scripts:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for name, content in scripts.items():
            _add(tar, f"bin/{name}", content, 0o755)
    config: dict[str, object] = {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]}
    if "entrypoint" in scripts:
        config |= {"Entrypoint": ["/bin/entrypoint"], "Cmd": ["pause"]}
    write_archive(target, reference, layer.getvalue(), config)


def write_archive(target: Path, reference: str, layer: bytes, config: dict[str, object]) -> None:
    """Write an image of one layer, in the format of `docker save`.

    Args:
        target: the archive; it is replaced as a whole.
        reference: the name that pods call it by.
        layer: a tar archive of its files.
        config: Cmd, Entrypoint, Env and the like.
    """
    digest = hashlib.sha256(layer).hexdigest()
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "katacsi"}],
    }
    content = json.dumps(about).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w") as tar:
        _add(tar, name, content)
        _add(tar, f"{digest}/layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    fresh.rename(target)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
