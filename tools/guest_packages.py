"""What a guest boots: QEMU, a kernel, and an initrd of our own making, all from Debian packages in the cache.

    <cache>/guest/tree-…/           the unpacked packages (tools/debian_packages.py)
    <cache>/guest/initrd-….cpio     keyed by the tree, by what is installed here, and by tools/guest_init.sh

The initrd is the guest's whole root and lies in its memory: busybox, the tools of ext4 and xfs, the kernel's
modules for virtio and xfs, and tools/guest_init.sh as its first process. No btrfs: Kata's stock guest kernel
has ext4 and xfs only. On demand also fio, which brings libraries of 80 MiB.

Standard library only.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from debian_packages import STATUS, Packages, Unavailable, alone, digest, find

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["Parts", "Unavailable", "prepare"]

INIT = Path(__file__).resolve().parent / "guest_init.sh"

PACKAGES = Packages(
    name="guest",
    main="qemu-system-x86",
    main_file=Path("/usr/bin/qemu-system-x86_64"),
    others=("busybox-static", "e2fsprogs", "xfsprogs", "fio"),
    # From Debian 13 on; before, it is in QEMU's package.
    where_known=("virtiofsd",),
    kernel="linux-image-cloud-amd64",
)

#: What the guest can run besides busybox.
PROGRAMS = (
    "/usr/sbin/resize2fs", "/usr/sbin/e2fsck", "/usr/sbin/mke2fs", "/usr/sbin/dumpe2fs",
    "/usr/sbin/xfs_growfs", "/usr/sbin/xfs_repair", "/usr/sbin/mkfs.xfs", "/usr/sbin/xfs_io",
)  # fmt: skip
FIO = "/usr/bin/fio"
LINKS = {"mkfs.ext4": "mke2fs", "fsck.ext4": "e2fsck"}
#: Loaded at boot, with what they depend on. ext4 is built into the kernel.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "xfs", "virtiofs")
#: How an initrd is made; another number makes it anew.
RECIPE = 1


@dataclass(frozen=True)
class Parts:
    """The files that a machine is put together from."""

    tree: Path
    kernel: Path
    initrd: Path

    @cached_property
    def qemu(self) -> Path:
        """The emulator."""
        return find(self.tree, "/usr/bin/qemu-system-x86_64")

    @cached_property
    def virtiofsd(self) -> Path:
        """The daemon behind a share: QEMU's own, or the one of its own package."""
        return find(self.tree, "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")

    @cached_property
    def firmware(self) -> tuple[Path, ...]:
        """The folders with QEMU's own files and the BIOS."""
        names = ("usr/share/qemu", "usr/share/seabios")
        return tuple(path for name in names for path in (self.tree / name, Path("/", name)) if path.is_dir())

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which the unpacked programs find their libraries and QEMU its modules."""
        modules = next(iter(self.tree.glob("usr/lib/*-linux-gnu/qemu")), None)
        return (
            os.environ
            | {"LD_LIBRARY_PATH": _libraries(self.tree)}
            | ({"QEMU_MODULE_DIR": str(modules)} if modules else {})
        )


def prepare(*, fio: bool = False, modules: tuple[str, ...] = ()) -> Parts:
    """Return the parts of a machine, fetching and making what is not in the cache yet.

    Its initrd has the modules named beside those that every machine has.

    Raises:
        Unavailable: not an amd64 machine, or a package cannot be had.
    """
    if (machine := os.uname().machine) != "x86_64":
        raise Unavailable(f"the guest is an x86_64 machine, and this one is {machine}")
    tree = PACKAGES.tree()
    kernel = next(iter(sorted(tree.glob("boot/vmlinuz-*"))), None)
    if kernel is None:
        raise Unavailable(f"{tree} holds no kernel: remove it and try again")
    programs = (*PROGRAMS, FIO) if fio else PROGRAMS
    loaded = (*MODULES, *modules)
    made_of = json.dumps([RECIPE, tree.name, programs, LINKS, loaded]).encode() + INIT.read_bytes()
    kind = ("fio" if fio else "base") + ("+modules" if modules else "")
    initrd = PACKAGES.folder / f"initrd-{kind}-{digest(made_of + STATUS.read_bytes())}.cpio"
    with alone(PACKAGES.folder / "lock"):
        if not initrd.exists():
            _make_initrd(tree, initrd, programs, loaded)
    return Parts(tree=tree, kernel=kernel, initrd=initrd)


def _libraries(tree: Path) -> str:
    """Return LD_LIBRARY_PATH for programs of the tree."""
    # Also folders below, which a library would name by its place in a machine where it is installed.
    return ":".join(sorted({str(file.parent) for file in tree.glob("usr/lib/*-linux-gnu/**/lib*.so.*")}))


def _make_initrd(tree: Path, initrd: Path, programs: Collection[str], modules: Iterable[str]) -> None:
    started = time.monotonic()
    for old in initrd.parent.glob(f"{initrd.name.rpartition('-')[0]}-*.cpio"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix=".initrd-", dir=initrd.parent) as scratch:
        fresh = Path(scratch) / "initrd"
        fresh.write_bytes(_cpio(_entries(tree, programs, modules)))
        fresh.rename(initrd)
    mib = initrd.stat().st_size / (1 << 20)
    print(f"guest: initrd of {mib:.0f} MiB made in {time.monotonic() - started:.1f} s", file=sys.stderr)


def _entries(tree: Path, names: Collection[str], loaded: Iterable[str]) -> Iterator[tuple[str, int, bytes]]:
    """Give name, mode and content of everything in the initrd."""
    for folder in ("bin", "dev", "etc", "mnt", "lib", "lib64", "lib/modules", "proc", "run", "sys", "tmp"):
        yield folder, stat.S_IFDIR | 0o755, b""
    yield "init", stat.S_IFREG | 0o755, INIT.read_bytes()
    busybox = find(tree, "/bin/busybox", "/usr/bin/busybox")
    yield "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        # The programs below have their own names: a later entry would replace it, but through the link.
        if applet not in {"busybox", *LINKS, *(Path(name).name for name in names)}:
            yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"
    programs = [find(tree, name) for name in names]
    for program in programs:
        yield f"bin/{program.name}", stat.S_IFREG | 0o755, program.read_bytes()
    for link, target in LINKS.items():
        yield f"bin/{link}", stat.S_IFLNK | 0o777, target.encode()
    for name, library in _needed_libraries(tree, programs).items():
        yield name, stat.S_IFREG | 0o755, library.read_bytes()
    modules = list(_in_order(tree, loaded))
    for module, content in modules:
        yield f"lib/modules/{module}.ko", stat.S_IFREG | 0o644, content
    yield "lib/modules/order", stat.S_IFREG | 0o644, "\n".join(name for name, _ in modules).encode() + b"\n"


def _needed_libraries(tree: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """Return the libraries of some programs, and the linker, by their place in the initrd.

    Raises:
        Unavailable: one of them is not to be found.
    """
    found: dict[str, Path] = {}
    for program in programs:
        answer = subprocess.run(
            ["/lib64/ld-linux-x86-64.so.2", "--list", program],
            env={"LC_ALL": "C", "LD_LIBRARY_PATH": _libraries(tree)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode or "not found" in answer.stdout:
            raise Unavailable(f"{program} lacks a library: {(answer.stderr or answer.stdout).strip()}")
        # "libuuid.so.1 => /lib/x86_64-linux-gnu/libuuid.so.1 (0x00007f…)"; the linker's has a path first.
        for name, place in re.findall(r"^\s*(\S+) => (/\S+) \(", answer.stdout, re.MULTILINE):
            found["lib64/ld-linux-x86-64.so.2" if "/" in name else f"lib/{name}"] = Path(place)
    found["lib64/ld-linux-x86-64.so.2"] = Path("/lib64/ld-linux-x86-64.so.2")
    return found


def _in_order(tree: Path, modules: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Give the modules to load and those that they depend on, each after what it needs.

    The modules name what they need themselves, so no depmod is called.

    Raises:
        Unavailable: the kernel has no such module.
    """
    files = {
        file.name.split(".")[0].replace("-", "_"): file
        for file in tree.glob("usr/lib/modules/*/kernel/**/*.ko*")
    }
    contents: dict[str, bytes] = {}

    def need(module: str) -> Iterator[tuple[str, bytes]]:
        if module in contents:
            return
        if module not in files:
            raise Unavailable(f"the kernel in {tree} has no module {module}")
        content = files[module].read_bytes()
        contents[module] = content = lzma.decompress(content) if files[module].suffix == ".xz" else content
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends[1].decode().split(",") if depends and depends[1] else ():
            yield from need(other.replace("-", "_"))
        yield module, content

    for module in modules:
        yield from need(module)


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return an archive in the format that the kernel unpacks (newc), with a console for the first process.

    Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    archive = bytearray()

    def add(name: str, mode: int, content: bytes, number: int, device: tuple[int, int] = (0, 0)) -> None:
        encoded = name.encode() + b"\0"
        header = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        archive.extend(b"070701" + b"".join(b"%08X" % value for value in header) + encoded)
        archive.extend(bytes(-len(archive) % 4) + content)
        archive.extend(bytes(-len(archive) % 4))

    number = 0
    for number, (name, mode, content) in enumerate(entries, 1):
        add(name, mode, content, number)
    add("dev/console", stat.S_IFCHR | 0o600, b"", number + 1, device=(5, 1))
    add("TRAILER!!!", 0, b"", 0)
    return bytes(archive)
