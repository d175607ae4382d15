"""What the lab's machine needs and this one lacks: Debian packages, unpacked into the cache, never installed.

apt works out which ones, so their versions are those of this machine's release. They are unpacked into one
folder, which the lab's machine lays over the root of this one:

    <cache>/lab/debs/<name>_<version>_<architecture>.deb
    <cache>/lab/tree-<kernel package's version>-<digest of all packages>/
    <cache>/lab/plan-<digest of what is installed here>.json    spares asking apt again

Standard library only: this runs before there is a venv.
"""

from __future__ import annotations

import fcntl
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
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(os.environ.get("KATACSI_CACHE") or Path.home() / ".cache" / "katacsi")
LAB = CACHE / "lab"

KERNEL = "user-mode-linux"
#: What the machine runs on, then what the tests in it use. An installed one is used as it is.
PACKAGES = (
    KERNEL, "kmod", "udev", "mount", "util-linux", "iproute2",
    "lvm2", "thin-provisioning-tools", "e2fsprogs", "xfsprogs", "btrfs-progs",
)  # fmt: skip
#: How a tree is made from its packages; another number makes every tree anew.
RECIPE = 1

_STATUS = Path("/var/lib/dpkg/status")


class Unavailable(Exception):
    """The lab cannot be had here; the message says why and what to do."""


def guest_tree() -> Path:
    """Return the folder of the unpacked packages, making it on first use.

    Raises:
        Unavailable: no apt, no such package, or it cannot be downloaded.
    """
    if missing := [tool for tool in ("apt-get", "dpkg-deb", "tar") if not shutil.which(tool)]:
        raise Unavailable(f"{', '.join(missing)} not found: the lab's kernel comes from Debian packages")
    asked = json.dumps([RECIPE, PACKAGES]).encode() + _STATUS.read_bytes()
    plan = LAB / f"plan-{_digest(asked)}.json"
    LAB.mkdir(parents=True, exist_ok=True)
    with _alone(LAB / "lock"):
        tree = LAB / json.loads(plan.read_text("utf-8")) if plan.exists() else None
        if tree is None or not tree.exists():
            tree = _make_tree()
            plan.write_text(json.dumps(tree.name), "utf-8")
    return tree


def _make_tree() -> Path:
    """Return the tree of the packages that are needed, downloading and unpacking what is not there yet."""
    started = time.monotonic()
    needed = _needed() or _needed(refresh=True)
    version = needed.get(KERNEL)
    if version is None and not Path("/usr/bin/linux.uml").exists():
        raise Unavailable(f"apt knows no package {KERNEL} for this release and architecture")
    digest = _digest(json.dumps([RECIPE, sorted(needed.items())]).encode())
    # A version may hold a colon, which the overlay takes for the end of a folder's name.
    tree = LAB / f"tree-{(version or 'installed').replace(':', '.')}-{digest}"
    if tree.exists():
        return tree
    try:
        debs = _download(needed)
    except Unavailable:
        # The lists of a machine or image that has been idle name versions that the mirror no longer has.
        needed = _needed(refresh=True)
        debs = _download(needed)
    with tempfile.TemporaryDirectory(prefix=".tree-", dir=LAB) as scratch:
        fresh = Path(scratch) / "tree"
        _unpack(debs, fresh)
        fresh.rename(tree)
    print(f"lab: unpacked {len(debs)} packages in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return tree


def _needed(*, refresh: bool = False) -> dict[str, str]:
    """Return name and version of each package that is not installed; empty when apt cannot say.

    Raises:
        Unavailable: even fresh lists do not help, or only root could read them anew.
    """
    if refresh:
        if os.geteuid() != 0:
            raise Unavailable(f"apt does not know {KERNEL} here, or its lists are old: sudo apt-get update")
        if error := _apt("update")[1]:
            raise Unavailable(f"apt-get update failed: {error}")
    said, error = _apt("install", "--simulate", "--no-install-recommends", "--no-upgrade", *PACKAGES)
    if error and refresh:
        raise Unavailable(f"apt cannot work out the lab's packages: {error}")
    # "Inst udev (252.39-1 Debian:12/stable [amd64])", with the installed version in brackets when it has one.
    found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", said, re.MULTILINE)
    return {} if error else dict(found)


def _download(needed: dict[str, str]) -> list[Path]:
    """Return the package files, from the cache or by apt, which checks their digests.

    Raises:
        Unavailable: a download failed.
    """
    folder = LAB / "debs"
    folder.mkdir(exist_ok=True)

    def files(name: str, version: str) -> list[Path]:
        return list(folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))

    wanted = [f"{name}={version}" for name, version in needed.items() if not files(name, version)]
    if wanted:
        print(f"lab: apt-get download {' '.join(wanted)}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix=".debs-", dir=LAB) as scratch:
            error = _apt("download", *wanted, cwd=Path(scratch))[1]
            for deb in () if error else Path(scratch).glob("*.deb"):
                deb.rename(folder / deb.name)
        if error:
            raise Unavailable(f"the lab's packages cannot be downloaded: {error}")
    debs = [file for name, version in needed.items() for file in files(name, version)]
    if len(debs) != len(needed):
        raise Unavailable(f"{folder} does not hold one file for each of {', '.join(needed)}: remove it")
    return debs


def _unpack(debs: list[Path], tree: Path) -> None:
    """Unpack packages into a folder whose top has the links of this machine's root (/lib -> usr/lib).

    Raises:
        Unavailable: a package is damaged or the disk is full.
    """
    tree.mkdir()
    for link in (entry for entry in Path("/").iterdir() if entry.is_symlink()):
        target = link.readlink()
        if not target.is_absolute() and target.parts[:1] == ("usr",):
            (tree / target).mkdir(parents=True, exist_ok=True)
            (tree / link.name).symlink_to(target)
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as content:
            answer = subprocess.run(
                # Without the option tar replaces the link /lib by the folder that a package calls so.
                ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", tree],
                stdin=content.stdout,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        if content.returncode or answer.returncode:
            raise Unavailable(f"{deb} cannot be unpacked; remove it and try again: {answer.stderr.strip()}")


def _apt(*arguments: str, cwd: Path | None = None) -> tuple[str, str]:
    """Run apt-get; return its output, and its first error (empty when it succeeded)."""
    answer = subprocess.run(
        # As ourselves: apt's own user may not enter the cache below our home.
        ["apt-get", "--quiet", "--yes", "--option", "APT::Sandbox::User=root", *arguments],
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if not answer.returncode:
        return answer.stdout, ""
    errors = [line for line in answer.stderr.splitlines() if line.startswith("E:")]
    return answer.stdout, errors[0] if errors else f"exit code {answer.returncode}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep two processes from making the same tree at once; the lock goes with the process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
