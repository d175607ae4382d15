"""The picture of a node: everything that the checks may know, gathered before the first of them runs.

What could not be found out is an `Unread` with its reason, so that no check mistakes it for an absent thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from katacsi.doctor.model import Unread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from katacsi.directvolume.entries import Entry
    from katacsi.doctor.handlers import Handler
    from katacsi.doctor.kataconfig import KataConfiguration
    from katacsi.settings import Settings

_NOT_LOOKED: Final = Unread("was not looked at")


@dataclass(frozen=True, slots=True)
class Kata:
    """What there is of Kata.

    Attributes:
        configurations: those that handlers use, or that were asked for; without any the default ones.
        unused: the files of others, which no pod meets.
        handlers: the runtime handlers that lead to Kata.
        container_runtimes: the configurations of container runtimes that were read.
        problems: what could not be read of these, each with its reason.
    """

    configurations: tuple[KataConfiguration, ...] = ()
    unused: tuple[str, ...] = ()
    handlers: tuple[Handler, ...] = ()
    container_runtimes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mounted:
    """The filesystem on which a path lies.

    Attributes:
        target: its mount point.
        type: such as `tmpfs`.
        read_only: whether it refuses writes here.
        shared: what is mounted below it here is seen by others.
    """

    target: str
    type: str
    read_only: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, as katacsi sees it.

    Attributes:
        path: its path.
        exists: whether there is something.
        folder: whether it is a folder.
        mode: its permissions.
        owner: the user's number.
        mounted: the filesystem on which it lies, or would lie; `None`: not known.
        hosts: it is the very folder that the node has at this path; `None`: the same by nature.
    """

    path: str
    exists: bool = True
    folder: bool = True
    mode: int = 0o700
    owner: int = 0
    mounted: Mounted | None = None
    hosts: bool | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A folder in the root of the records.

    Attributes:
        entry: what it says.
        ours: whether this driver published it, by its facts of this boot; `None`: no configuration was given.
        target_there: whether the path that it is for exists; `None`: nobody could look.
        device_there: likewise of the device that it names.
    """

    entry: Entry
    ours: bool | None = None
    target_there: bool | None = True
    device_there: bool | None = True


@dataclass(frozen=True, slots=True)
class Records:
    """The root in which Kata looks for records."""

    place: Place | Unread = _NOT_LOOKED
    entries: tuple[Recorded, ...] | Unread = ()


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The kubelet's root folder, and how it was found."""

    root: str = "/var/lib/kubelet"
    found_by: str = "by default"
    place: Place | Unread = _NOT_LOOKED


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel can do.

    Attributes:
        release: as `uname -r`.
        filesystems: the types it knows now.
        modules: what it could load, and what is built in, by name with underscores.
        io_uring_disabled: the sysctl; `None`: this kernel has none.
        selinux: whether it is on.
        loop_problem: why loop devices do not work; empty: they do.
        device_mapper: whether it is there.
        targets: the targets of device-mapper that are loaded.
    """

    release: str = ""
    filesystems: frozenset[str] | Unread = _NOT_LOOKED
    modules: frozenset[str] | Unread = _NOT_LOOKED
    io_uring_disabled: int | Unread | None = None
    selinux: bool | Unread = False
    loop_problem: str = ""
    device_mapper: bool = False
    targets: frozenset[str] | Unread = _NOT_LOOKED


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool of the configuration.

    Attributes:
        name: as in the configuration.
        backend: the backend's name.
        settings: what its backend was told.
        problem: why its backend cannot use it; empty: it can.
        unready: it was never used, so that there is nothing to open.
        available_bytes: room for new volumes; `None`: not known.
        place: its folder, for backends that have one.
        lvm_version: of the LVM that is run for it.
        lvm_locks: the folder of LVM's locks.
    """

    name: str
    backend: str
    settings: BaseModel
    problem: str | Unread = ""
    unready: bool = False
    available_bytes: int | None = None
    place: Place | Unread | None = None
    lvm_version: str | Unread = ""
    lvm_locks: Place | Unread | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        contained: the node's files lie below another folder, so katacsi runs in a container of its own.
        kata: what there is of Kata.
        records: the root of the records.
        kubelet: the kubelet's folder.
        kernel: what the kernel can do.
        user: the user's number of this process.
        capabilities: the bits of this process, as in `CapEff`.
        tools: those of the host's tools that are installed where katacsi runs.
        guest_paths: where guests are found: whether this process has the path, and whether the node does.
        host_lvm_scans_volumes: whether the node's own LVM looks into logical volumes; `None`: it has none.
        settings: the configuration; `None`: none was given.
        pools: its pools.
    """

    contained: bool = False
    kata: Kata = field(default_factory=Kata)
    records: Records = field(default_factory=Records)
    kubelet: Kubelet = field(default_factory=Kubelet)
    kernel: Kernel = field(default_factory=Kernel)
    user: int = 0
    capabilities: int | Unread = _NOT_LOOKED
    tools: frozenset[str] = frozenset()
    guest_paths: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    host_lvm_scans_volumes: bool | Unread | None = None
    settings: Settings | None = None
    pools: tuple[PoolFacts, ...] = ()
