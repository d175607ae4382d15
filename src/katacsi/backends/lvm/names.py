"""What LVs are called: a prefix says the kind, then comes the storage name, shortened where LVM needs it."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from katacsi.errors import PoolUnavailable

VOLUME: Final = "kv-"
SNAPSHOT: Final = "ks-"
#: A source as it was when a copy of it was begun, for as long as the copying takes.
VOLUME_CUT: Final = "kcv-"
SNAPSHOT_CUT: Final = "kcs-"
#: Extents that are zeroed before a volume grows into them.
GROWTH: Final = "kg-"

#: device-mapper's limit for the name of a device, in which each dash of ours counts twice.
_DEVICE_NAME: Final = 127
_STORAGE_NAME: Final = 70
#: What LVM appends for parts of an LV, such as `_rimage_12_imeta`, and the doubled dash of the prefix.
_AFFIXES: Final = len("kcs--") + len("_rimage_12_imeta") + len("-")

_DEVICE: Final = re.compile(r"((?:[^-]|--)+)-((?:[^-]|--)+)")


def lv_of_device(device_name: str) -> str:
    """Give the name of the LV whose own device is called so; empty: it is no LV's own device.

    A single dash separates the group from the LV, and either from a layer; those in names are doubled.
    """
    found = _DEVICE.fullmatch(device_name)
    return found[2].replace("--", "-") if found else ""


def _mangled(name: str) -> str:
    return name.replace("-", "--")


def lv_name(prefix: str, storage_name: str) -> str:
    """Give the name of an LV: the same on every node and in every version."""
    if len(_mangled(storage_name)) > _STORAGE_NAME:
        storage_name = "h-" + hashlib.sha256(storage_name.encode()).hexdigest()[:32]
    return prefix + storage_name


def check_group_name(name: str) -> None:
    """Refuse a volume group with so long a name that LVs could not be named.

    Raises:
        PoolUnavailable: it has to be renamed.
    """
    longest = _DEVICE_NAME - _STORAGE_NAME - _AFFIXES
    if len(_mangled(name)) > longest:
        raise PoolUnavailable(
            f"volume group {name}: its name is too long for LVM to name volumes (at most {longest} "
            "characters, a dash counts twice); vgrename it"
        )
