#!/usr/bin/env python3
"""Fill the folder that becomes the image; runs inside the build, on Debian's Python (see Containerfile).

    image_tree.py system FOLDER      Python, the driver's programs, and whatever they load
    image_tree.py compiled FOLDER    only compile the Python below the folder

Copied are files, not packages: a program, where its links lead, its libraries. Of each package that a file
is from come its licence and its entry in dpkg's list, which scanners for vulnerabilities read.
Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

#: Whatever katacsi runs (katacsi.host.command.PACKAGES), and what those run in turn.
PROGRAMS = (
    "blkid",
    "btrfstune",
    "debugfs",
    "dmsetup",
    "e2fsck",
    "lvm",
    "mkfs.btrfs",
    "mkfs.ext4",
    "mkfs.xfs",
    "nsenter",  # the node's own LVM
    "resize2fs",
    "thin_check",  # lvm, before it activates a thin pool
    "tini",
    "tune2fs",
    "xfs_db",
    "xfs_logprint",
)
#: Loaded by name, which ldd does not see: glibc wants it where a thread ends early.
LIBRARIES = ("libgcc_s.so.1",)
#: Files and folders that are taken as they are.
OTHERS = (
    "/etc/debian_version",
    "/etc/mke2fs.conf",
    "/etc/os-release",
    "/usr/lib/locale/C.utf8",
)
#: Of Python's library what a driver never imports; some of it loads libraries that nothing else here needs.
NOT_OF_PYTHON = (
    "__pycache__", "EXTERNALLY-MANAGED", "config-*", "curses", "dbm", "distutils", "ensurepip", "idlelib",
    "lib2to3", "pydoc_data", "sitecustomize.py", "sqlite3", "test", "tkinter", "turtledemo", "venv",
    "_crypt.*", "_curses*", "_dbm.*", "_gdbm.*", "_sqlite3.*", "_test*", "_xxtestfuzz.*", "audioop.*",
    "nis.*", "ossaudiodev.*", "readline.*", "xxlimited*",
)  # fmt: skip
#: Of the packages that the driver imports, what it does not. katacsi.kube sees to the first two itself.
NOT_OF_PACKAGES = (
    "kubernetes_asyncio/README.md",
    "kubernetes_asyncio/client/api",
    "kubernetes_asyncio/client/models",
    "pygments/lexers/[a-z]*",
    "tzdata/zoneinfo/*",
)
#: Written anew; the base's own name users and services that the image has not.
WRITTEN = {
    "etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
#: Where something is mounted, with their modes.
FOLDERS = {"dev": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777, "var/tmp": 0o1777}


@dataclass
class Tree:
    """The folder that is filled."""

    root: Path
    taken: set[Path] = field(default_factory=set)
    """Files of the base that were copied, by their real paths."""

    def take(self, path: Path) -> None:
        """Copy a file, and where its links lead; a folder with all that is in it."""
        # The folder by its real name: /sbin and /lib are links into /usr, here as there.
        path = path.parent.resolve() / path.name
        target = self.root / path.relative_to("/")
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to(path.readlink())
            self.take(path.parent / path.readlink())
        elif path.is_dir():
            for entry in sorted(path.iterdir()):
                self.take(entry)
        elif path not in self.taken:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            self.taken.add(path)

    def take_python(self) -> None:
        """Copy Python and the part of its library that a driver may need."""
        self.take(Path("/usr/bin/python3"))
        library = Path(sysconfig.get_path("stdlib"))
        unwanted = shutil.ignore_patterns(*NOT_OF_PYTHON)
        for folder, folders, files in os.walk(library):
            skipped = unwanted(folder, [*folders, *files])
            folders[:] = [name for name in folders if name not in skipped]
            for name in set(files) - skipped:
                self.take(Path(folder, name))

    def take_libraries(self) -> None:
        """Copy what the programs and modules in the tree load."""
        missing = []
        for file in [path for path in self.root.rglob("*") if _is_elf(path)]:
            said = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
            if "not found" in said:
                missing.append(f"{file}: {said}")
            for name in re.findall(r"(/\S+) \(0x", said):
                if not Path(name).is_relative_to(self.root):  # a wheel brings some itself
                    self.take(Path(name))
        if missing:
            raise SystemExit("\n".join(["libraries are missing in the base:", *missing]))

    def record_packages(self) -> list[str]:
        """Copy the licence of each package that a file is from, and its entry in dpkg's list."""
        known = {name for path in self.taken for name in _names(path)}
        # One question for all; some answer is an error, for each path has two names and dpkg knows one.
        asked = subprocess.run(
            ["dpkg", "--search", *sorted(known)], capture_output=True, text=True, check=False
        )
        packages = sorted({line.split(":")[0].split(",")[0] for line in asked.stdout.splitlines()})
        for package in packages:
            status = subprocess.run(["dpkg", "--status", package], capture_output=True, check=True).stdout
            entry = self.root / "var/lib/dpkg/status.d" / package
            entry.parent.mkdir(parents=True, exist_ok=True)
            entry.write_bytes(status)
            licence = Path("/usr/share/doc", package, "copyright")
            if licence.exists():
                target = self.root / licence.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(licence.resolve(), target)
        return packages


def fill(root: Path) -> None:
    """Make the system: all but the driver itself, whose wheels lie in the folder already."""
    tree = Tree(root)
    for link in (entry for entry in Path("/").iterdir() if entry.is_symlink()):
        if link.readlink().parts[:1] == ("usr",):
            (root / link.readlink()).mkdir(parents=True, exist_ok=True)
            (root / link.name).symlink_to(link.readlink())
    for name, mode in FOLDERS.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    for name, text in WRITTEN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    remove_unused(root / "usr/local")
    for name in (*map(_program, PROGRAMS), *map(_library, LIBRARIES), *OTHERS):
        tree.take(Path(name))
    tree.take_python()
    tree.take_libraries()
    packages = tree.record_packages()
    compile_python(root)
    print(f"{len(tree.taken)} files of {len(packages)} packages: {' '.join(packages)}")


def remove_unused(packages: Path) -> None:
    """Remove what pip installed and nobody needs: the packages' own commands, and parts of them."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for pattern in NOT_OF_PACKAGES:
        found = list(packages.glob(f"lib/python3*/*-packages/{pattern}"))
        if not found:
            raise SystemExit(f"no {pattern} among the packages: NOT_OF_PACKAGES is out of date")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def compile_python(root: Path) -> None:
    """Compile all Python below a folder; nobody can do so later, since a root filesystem is read-only.

    Unchecked: a copy into a layer changes times, and a compiled file that is out of time is no good.
    """
    for folder in [path for path in root.glob("usr/**/python3*") if path.is_dir()]:
        subprocess.run(
            [
                *(sys.executable, "-m", "compileall", "-q", "-f", "-j", "0"),
                *("--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/", folder),
            ],
            check=True,
        )


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not found:
        raise SystemExit(f"the base has no {name}, though its package is installed")
    return found


def _library(name: str) -> str:
    return str(Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "") / name)


def _names(path: Path) -> set[str]:
    """Give a path and the one that it had before /usr was merged: dpkg knows files by either."""
    return {str(path), str(path).removeprefix("/usr")}


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


if __name__ == "__main__":
    steps = {"system": fill, "compiled": compile_python}
    steps[sys.argv[1]](Path(sys.argv[2]))
