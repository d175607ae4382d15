"""Debian packages, downloaded and unpacked into the cache, never installed.

apt works out which ones, so their versions are those of this machine's release, and it checks their digests.
An installed package is used as it is: only what this machine lacks is fetched.

    <cache>/<folder>/debs/<name>_<version>_<architecture>.deb
    <cache>/<folder>/tree-<version of the main package>-<digest of all packages>/
    <cache>/<folder>/plan-<digest of what is installed here>.json    spares asking apt again

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(os.environ.get("KATACSI_CACHE") or Path.home() / ".cache" / "katacsi")
STATUS = Path("/var/lib/dpkg/status")


class Unavailable(Exception):
    """The machine cannot be had here; the message says why and what to do."""


@dataclass(frozen=True)
class Packages:
    """What a machine needs: a name for messages and for the cache's folder, and Debian packages."""

    name: str
    main: str
    """The package that the machine is nothing without; its version is in the tree's name."""
    main_file: Path
    """The main package's program, where it is installed: then the package is not asked for."""
    others: tuple[str, ...]
    where_known: tuple[str, ...] = ()
    """Packages that some releases have and others have as a part of another package."""
    kernel: str = ""
    """A meta package whose dependency is a kernel. Of that only the files are wanted, no boot loader and no
    initramfs-tools, so it is fetched without what it depends on, even where it is installed."""
    recipe: int = 1
    """How a tree is made from its packages; another number makes every tree anew."""

    @property
    def folder(self) -> Path:
        """Where all of it is kept."""
        return CACHE / self.name

    def tree(self) -> Path:
        """Return the folder of the unpacked packages, making it on first use.

        Raises:
            Unavailable: no apt, no such package, or it cannot be downloaded.
        """
        if missing := [tool for tool in ("apt-get", "dpkg-deb", "tar") if not shutil.which(tool)]:
            raise Unavailable(
                f"{', '.join(missing)} not found: what the {self.name} needs comes from Debian packages"
            )
        asked = [self.recipe, [self.main, *self.others], *filter(None, [self.where_known, self.kernel])]
        plan = self.folder / f"plan-{digest(json.dumps(asked).encode() + STATUS.read_bytes())}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder / "lock"):
            tree = self.folder / json.loads(plan.read_text("utf-8")) if plan.exists() else None
            if tree is None or not tree.exists():
                tree = self._make_tree()
                plan.write_text(json.dumps(tree.name), "utf-8")
        return tree

    def _make_tree(self) -> Path:
        """Return the tree of the packages that are needed, fetching what is not there yet."""
        started = time.monotonic()
        needed = self._needed()
        if needed is None:
            needed = self._needed_of_fresh_lists()
        version = needed.get(self.main)
        if version is None and not self.main_file.exists():
            raise Unavailable(f"apt knows no package {self.main} for this release and architecture")
        wanted = digest(json.dumps([self.recipe, sorted(needed.items())]).encode())
        # A version may hold a colon, which the overlay takes for the end of a folder's name.
        tree = self.folder / f"tree-{(version or 'installed').replace(':', '.')}-{wanted}"
        if tree.exists():
            return tree
        try:
            debs = self._download(needed)
        except Unavailable:
            # The lists of a machine or image that has been idle name versions that the mirror no longer has.
            needed = self._needed_of_fresh_lists()
            debs = self._download(needed)
        downloaded = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=".tree-", dir=self.folder) as scratch:
            fresh = Path(scratch) / "tree"
            _unpack(debs, fresh)
            fresh.rename(tree)
        mib = sum(deb.stat().st_size for deb in debs) / (1 << 20)
        self._say(
            f"{len(debs)} packages, {mib:.0f} MiB: downloaded in {downloaded - started:.1f} s,"
            f" unpacked in {time.monotonic() - downloaded:.1f} s"
        )
        return tree

    def _needed(self) -> dict[str, str] | None:
        """Return name and version of each package that is not installed; None when apt cannot say."""
        found, error = self._simulated()
        return None if error else found

    def _needed_of_fresh_lists(self) -> dict[str, str]:
        """Read apt's lists anew, and return what `_needed` does.

        Raises:
            Unavailable: even fresh lists do not help, or only root could read them anew.
        """
        if os.geteuid() != 0:
            raise Unavailable(
                f"apt does not know {self.main} here, or its lists are old: sudo apt-get update"
            )
        if error := _apt("update")[1]:
            raise Unavailable(f"apt-get update failed: {error}")
        found, error = self._simulated()
        if error:
            raise Unavailable(f"apt cannot work out the {self.name}'s packages: {error}")
        return found

    def _simulated(self) -> tuple[dict[str, str], str]:
        """Return what apt would install, and apt's error, if any."""
        names = [self.main, *self.others, *(name for name in self.where_known if _is_known(name))]
        said, error = _apt("install", "--simulate", "--no-install-recommends", "--no-upgrade", *names)
        # "Inst udev (252.39-1 Debian:12/stable [amd64])", the installed version in brackets if there is one.
        found = dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", said, re.MULTILINE))
        if self.kernel and not error:
            kernel, error = _kernel_of(self.kernel)
            found |= kernel
        return found, error

    def _download(self, needed: dict[str, str]) -> list[Path]:
        """Return the package files, from the cache or by apt, which checks their digests.

        Raises:
            Unavailable: a download failed.
        """
        folder = self.folder / "debs"
        folder.mkdir(exist_ok=True)

        def files(name: str, version: str) -> list[Path]:
            return list(folder.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))

        wanted = [f"{name}={version}" for name, version in needed.items() if not files(name, version)]
        if wanted:
            self._say(f"apt-get download {' '.join(wanted)}")
            with tempfile.TemporaryDirectory(prefix=".debs-", dir=self.folder) as scratch:
                error = _apt("download", *wanted, cwd=Path(scratch))[1]
                for deb in () if error else Path(scratch).glob("*.deb"):
                    deb.rename(folder / deb.name)
            if error:
                raise Unavailable(f"the {self.name}'s packages cannot be downloaded: {error}")
        debs = [file for name, version in needed.items() for file in files(name, version)]
        if len(debs) != len(needed):
            raise Unavailable(f"{folder} does not hold one file for each of {', '.join(needed)}: remove it")
        return debs

    def _say(self, text: str) -> None:
        print(f"{self.name}: {text}", file=sys.stderr)


def _is_known(name: str) -> bool:
    return not _run("apt-cache", "show", name)[1]


def _kernel_of(meta: str) -> tuple[dict[str, str], str]:
    """Return name and version of the kernel that a meta package depends on, and apt's error, if any."""
    said, error = _run("apt-cache", "show", "--no-all-versions", meta)
    match = re.search(r"^Depends:.*?\b(linux-image-[0-9]\S*) \(= ([^)]+)\)", said, re.MULTILINE)
    if error or not match:
        return {}, error or f"{meta} does not say which kernel it stands for"
    return {match[1]: match[2]}, ""


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
    # As ourselves: apt's own user may not enter the cache below our home.
    return _run("apt-get", "--quiet", "--yes", "--option", "APT::Sandbox::User=root", *arguments, cwd=cwd)


def _run(*argv: str, cwd: Path | None = None) -> tuple[str, str]:
    answer = subprocess.run(
        argv,
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


def find(tree: Path, *names: str) -> Path:
    """Return the first of some programs, from the unpacked packages or else of this machine.

    Raises:
        Unavailable: there is none of them.
    """
    for name in names:
        for path in (tree / name[1:], Path(name)):
            if path.exists():
                return path
    raise Unavailable(
        f"no {' or '.join(names)}, neither here nor in {tree}: remove that folder and try again"
    )


def digest(content: bytes) -> str:
    """Return a short digest, for names in the cache."""
    return hashlib.sha256(content).hexdigest()[:12]


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keep two processes from making the same thing at once; the lock goes with the process."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
