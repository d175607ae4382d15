"""What pools of the backend `lvm` need of the node: device-mapper, and an LVM that shares them safely."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.backends.examination import BackendChecks, ExaminedPool
from katacsi.backends.lvm.commands import Lvm
from katacsi.backends.lvm.settings import LvmSettings, VolumeType
from katacsi.errors import KatacsiError
from katacsi.findings import Harm, Unread, failure, ok, unknown, warning
from katacsi.host import command, devicemapper
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from katacsi.backends.examination import Examination, Surroundings
    from katacsi.findings import Place, Result

CHECKS: Final = BackendChecks[LvmSettings]("Pools")

#: Modules of device-mapper for each type of volume.
_TARGETS: Final = {
    VolumeType.THIN: ("thin-pool", "dm_thin_pool"),
    VolumeType.RAID1: ("raid", "dm_raid"),
    VolumeType.RAID5: ("raid", "dm_raid"),
    VolumeType.RAID6: ("raid", "dm_raid"),
    VolumeType.RAID10: ("raid", "dm_raid"),
}
_DMSETUP_TIMEOUT_S: Final = 10.0
_SCAN_LVS: Final = re.compile(r"^\s*scan_lvs\s*=\s*(\d)", re.MULTILINE)


# -- device-mapper ---------------------------------------------------------------------------------------


@CHECKS.add(
    "pool-device-mapper",
    "device-mapper, for `lvm` pools",
    Harm.PODS,
    "A logical volume is a device of device-mapper; thin pools and RAID need targets of their own.",
)
async def device_mapper(examination: Examination[LvmSettings]) -> AsyncIterator[Result]:
    """Look for the driver and the targets of the pool's own type."""
    if not examination.pools:
        return
    loaded = await _targets() if _is_there() else None
    for pool in examination.pools:
        yield _device_mapper(pool, loaded, examination.node)


def _device_mapper(
    pool: ExaminedPool[LvmSettings], loaded: frozenset[str] | Unread | None, node: Surroundings
) -> Result:
    """Judge by the targets that are loaded; `None`: there is no device-mapper."""
    if loaded is None:
        return failure(
            pool.subject,
            "device-mapper is not there (/proc/misc, /dev/mapper/control)",
            "run modprobe dm_mod on the node; give a container the node's /dev",
        )
    kind, modules = pool.settings.default_type, node.kernel_modules
    target, module = _TARGETS.get(kind, ("", ""))
    if not target or (not isinstance(loaded, Unread) and target in loaded):
        return ok(pool.subject, f"device-mapper, for volumes of type {kind.value}")
    if isinstance(modules, Unread):
        first = loaded.reason if isinstance(loaded, Unread) else f"target {target} is not loaded"
        return unknown(pool.subject, f"{first}; {modules.reason}", f"look with modprobe {module}")
    if module in modules:
        return ok(pool.subject, f"target {target} is a module, loaded when it is needed")
    return failure(
        pool.subject,
        f"kernel {node.kernel_release} has neither target {target} nor a module {module}",
        "use another kernel, or another type of volumes",
    )


def _is_there() -> bool:
    """Whether the driver is there: a node in /dev alone may be a leftover."""
    try:
        known = "device-mapper" in Path("/proc/misc").read_text("utf-8").split()
    except OSError:
        return False
    return known and devicemapper.CONTROL.exists()


async def _targets() -> frozenset[str] | Unread:
    try:
        answer = await off_loop(command.run, ["dmsetup", "targets"], timeout_s=_DMSETUP_TIMEOUT_S)
    except KatacsiError as error:
        return Unread(error.message)
    return frozenset(line.split()[0] for line in answer.stdout.decode().splitlines() if line.strip())


# -- LVM itself ------------------------------------------------------------------------------------------


@CHECKS.add(
    "pool-lvm",
    "LVM, its version and its locks, for `lvm` pools",
    Harm.DATA,
    "katacsi needs LVM 2.03 (2.02 has lvmetad, whose cache may be wrong). LVM on the node and LVM here "
    "change one volume group: only common locks keep them apart.",
)
async def lvm(examination: Examination[LvmSettings]) -> AsyncIterator[Result]:
    """Look at the program and at the folder of the locks."""
    for pool in examination.pools:
        yield _version(pool, await _asked(pool.settings))
        locks = examination.node.place(pool.settings.lock_directory)
        yield _locks(pool, locks, contained=examination.node.contained)


async def _asked(own: LvmSettings) -> str | Unread:
    try:
        return await Lvm(own).version()
    except KatacsiError as error:
        return Unread(error.message)


def _version(pool: ExaminedPool[LvmSettings], version: str | Unread) -> Result:
    if isinstance(version, Unread):
        return unknown(pool.subject, version.reason, "install lvm2, or set exec and program")
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < (2, 3):
        return failure(
            pool.subject, f"LVM {version or 'of no version'}", "install LVM 2.03 or newer", Harm.PODS
        )
    return ok(pool.subject, f"LVM {version}")


def _locks(pool: ExaminedPool[LvmSettings], locks: Place | Unread, *, contained: bool) -> Result:
    folder = pool.settings.lock_directory
    if isinstance(locks, Unread):
        return unknown(pool.subject, locks.reason)
    if locks.hosts is False or (contained and not locks.exists):
        return failure(
            pool.subject,
            f"lock_directory {folder} is not the node's",
            f"mount the node's {folder} there (hostPath, DirectoryOrCreate)",
        )
    return ok(pool.subject, f"locks in {folder}")


@CHECKS.add(
    "pool-lvm-scan",
    "`scan_lvs` of the node's own LVM, for `lvm` pools",
    Harm.DATA,
    "With it the node's LVM looks into logical volumes, and may activate a volume group that a guest has "
    "made there. katacsi itself never looks.",
)
async def lvm_scan(examination: Examination[LvmSettings]) -> AsyncIterator[Result]:
    """Look at lvm.conf of the node."""
    for pool in examination.pools:
        yield _scan(pool, examination.node.text("/etc/lvm/lvm.conf"))


def _scan(pool: ExaminedPool[LvmSettings], configuration: str | Unread | None) -> Result:
    if isinstance(configuration, Unread):
        return unknown(pool.subject, configuration.reason)
    values = _SCAN_LVS.findall(configuration or "")
    if values and values[-1] != "0":
        return warning(pool.subject, "/etc/lvm/lvm.conf: devices/scan_lvs = 1", "set it to 0, LVM's default")
    return ok(pool.subject, "the node's LVM does not look into volumes")
