"""Hypervisors that have a block device open, and whether the shim that started each still lives.

A guest is known by its sandbox's id, which its hypervisor and its shim were both started with. Source:
kata-containers, runtime/virtcontainers/qemu.go and clh.go, runtime-rs/crates/hypervisor/src/qemu/
cmdline_generator.rs and ch/inner_hypervisor.rs, runtime/pkg/containerd-shim-v2/service.go and
runtime-rs/crates/shim/src/shim_start.rs.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.findings import Checks, Harm, Unread, failure, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.hostfiles import HostFiles
    from katacsi.doctor.node import Judge, Node
    from katacsi.doctor.processes import Process, Processes
    from katacsi.findings import Result

HYPERVISORS: Final[Checks[Judge]] = Checks("Records")

#: How the programs of Kata's hypervisors are named. Dragonball is part of its shim, and goes with it.
_PROGRAMS: Final = ("qemu-system-", "qemu-kvm", "cloud-hypervisor", "firecracker", "stratovirt", "openvmm")
_NAMED: Final = re.compile(r"sandbox-([A-Za-z0-9][\w.-]*)")
#: In the paths of sockets, or by itself as containerd and CRI-O name sandboxes.
_WITHIN: Final = re.compile(r"/run/(?:vc/vm|kata)/([^/\0]+)/|(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A hypervisor's process.

    Attributes:
        process: the process.
        sandbox: the id of its sandbox; empty: it names none, so it may be no guest of Kata's.
        shim: whether the shim of that sandbox lives.
        devices: the block devices that it has open, by number, with a name.
    """

    process: Process
    sandbox: str
    shim: bool
    devices: dict[int, str] | Unread


@dataclass(frozen=True, slots=True)
class Hypervisors:
    """Those that were found among so many processes; with a `problem` nobody could look."""

    all: tuple[Hypervisor, ...] = ()
    processes: int = 0
    problem: str = ""

    @property
    def alone(self) -> list[Hypervisor]:
        """Those that have devices open, or may have, without a shim that lives."""
        return [one for one in self.all if not one.shim and one.devices]


def find(files: HostFiles, processes: Processes) -> Hypervisors:
    """Look at each hypervisor's descriptors."""
    shims = {process.option("-id") for process in processes.all if "shim" in process.program}
    found = []
    for process in processes.all:
        if process.program.startswith(_PROGRAMS):
            sandbox = _sandbox(process)
            alive = sandbox != "" and sandbox in shims
            found.append(Hypervisor(process, sandbox, alive, _devices(files, process)))
    return Hypervisors(tuple(found), len(processes.all), processes.problem)


def _sandbox(process: Process) -> str:
    named = _NAMED.match(process.option("-name")) or _NAMED.match(process.option("--name"))
    if named:
        return named[1]
    within = _WITHIN.search("\0".join(process.argv))
    return within[1] or within[2] if within else ""


def _devices(files: HostFiles, process: Process) -> dict[int, str] | Unread:
    folder = f"/proc/{process.pid}/fd"
    descriptors = files.names(folder)
    if isinstance(descriptors, Unread):
        return descriptors
    found: dict[int, str] = {}
    for descriptor in descriptors:
        link = files.here(f"{folder}/{descriptor}")
        try:
            status = link.stat()  # of what it leads to, whatever its name is here
            if stat.S_ISBLK(status.st_mode):
                found[status.st_rdev] = os.readlink(link)  # noqa: PTH115 -- its text, not a path of ours
        except FileNotFoundError:
            continue  # closed meanwhile
        except OSError as error:
            return Unread(f"{folder}: {error.strerror}")
    return found


@HYPERVISORS.add(
    "records-guests",
    "hypervisors that have outlived their shim",
    Harm.DATA,
    "runtime-rs leaves its hypervisor running when its shim dies (out of memory, a crash), with the volume "
    "mounted in the guest. The container runtime then says that the pod is gone; a second guest on the same "
    "device would destroy the filesystem.",
)
def guests(node: Node) -> Iterator[Result]:
    """Name what still holds a device for a pod that is gone."""
    found = node.hypervisors
    if found.problem:
        yield unknown("hypervisors", found.problem, "run doctor as root on the node")
        return
    for one in found.alone:
        yield from _said(one, node)
    if not found.alone:
        number = len(found.all)
        fact = f"{number}, each with its shim or without a device" if number else "none"
        yield ok("hypervisors", f"{fact}, among {found.processes} processes")


def _said(one: Hypervisor, node: Node) -> Iterator[Result]:
    pid = one.process.pid
    subject = f"{one.process.program} (process {pid})"
    if isinstance(one.devices, Unread):
        yield unknown(subject, one.devices.reason, "run doctor as root on the node")
        return
    whose = f"sandbox {one.sandbox}" if one.sandbox else "no known sandbox"
    for number, name in one.devices.items():
        fact = f"{whose}, has no shim any more, and has {name} open"
        remedy = (
            f"if its pod is gone: kill {pid} (what its guest has not synced is lost), and give {name} to no "
            "other pod before; what was refused meanwhile (NodeUnstageVolume, the next pod) succeeds then"
        )
        if known := _known(number, node):
            yield failure(subject, f"{fact}: {known}", remedy)
        elif one.sandbox:
            yield warning(subject, fact, remedy)


def _known(number: int, node: Node) -> str:
    """Say what katacsi has to do with a device; empty: nothing, or that could not be found out."""
    entries = node.records.entries
    records = () if isinstance(entries, Unread) else entries
    targets = [f"record of {one.entry.target}" for one in records if one.device_number == number]
    volumes = [
        f"volume {volume}" for pool in node.pools for volume, device in pool.attached if device == number
    ]
    return ", ".join((*volumes, *targets))
