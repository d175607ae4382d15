"""Gathers the picture of a node that the checks judge; nothing is changed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.doctor import collect_host, collect_kata, collect_kernel, collect_places, collect_pools
from katacsi.doctor.hostfiles import HostFiles
from katacsi.doctor.model import Unread
from katacsi.doctor.node import Node, Recorded, Records
from katacsi.errors import KatacsiError
from katacsi.settings import Settings
from katacsi.volumes import publish_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from katacsi.directvolume.entries import Entry

#: The node's own root: then doctor runs on the node itself.
ROOT = Path("/")


async def collect(
    settings: Settings | None, *, host_root: Path = ROOT, kata_configurations: Sequence[str] = ()
) -> Node:
    """Gather everything.

    Args:
        settings: the configuration, when there is one.
        host_root: where the node's root folder is seen.
        kata_configurations: configurations of Kata to judge besides those that handlers use, by the node's
            paths.

    Raises:
        SettingsError: the configuration's pools make no sense.
    """
    files = HostFiles(host_root)
    contained = host_root != ROOT
    pools = await collect_pools.look(settings, files, contained=contained) if settings else ()
    return Node(
        contained=contained,
        kata=await collect_kata.find(files, kata_configurations),
        records=await _records(settings, files, contained=contained),
        kubelet=collect_host.kubelet(files, contained=contained),
        kernel=await collect_kernel.kernel(files, lvm=any(pool.backend == "lvm" for pool in pools)),
        user=collect_host.user(),
        capabilities=collect_host.capabilities(),
        tools=collect_host.tools(),
        guest_paths=collect_host.guest_paths(files),
        host_lvm_scans_volumes=collect_host.host_lvm_scans(files),
        settings=settings,
        pools=pools,
    )


async def _records(settings: Settings | None, files: HostFiles, *, contained: bool) -> Records:
    """Look at the root, and at the records that Kata sees, which are those of the node."""
    root = (settings or Settings()).direct_volume_root
    place = collect_places.place(root, files, contained=contained)
    try:
        entries = await DirectVolumeWriter(files.here(files.resolved(str(root)))).listing()
    except KatacsiError as error:
        return Records(place, Unread(error.message))
    except OSError as error:
        return Records(place, Unread(f"{root}: {error.strerror}"))
    return Records(place, tuple(_recorded(entry, settings, files) for entry in entries))


def _recorded(entry: Entry, settings: Settings | None, files: HostFiles) -> Recorded:
    if entry.target is None:
        return Recorded(entry, ours=None if settings is None else False)
    return Recorded(
        entry,
        ours=_is_ours(entry.target, settings),
        target_there=_is_there(entry.target, files),
        device_there=_is_there(entry.record.device, files) if entry.record else None,
    )


def _is_there(path: str, files: HostFiles) -> bool | None:
    status = files.status(path)
    return None if isinstance(status, Unread) else status is not None


def _is_ours(target: str, settings: Settings | None) -> bool | None:
    """Whether the driver's facts of this boot name the target; a record without one is somebody else's."""
    if settings is None:
        return None
    fact = settings.state_path / "published" / publish_state.file_name(target)
    try:
        return fact.exists()
    except OSError:
        return None
