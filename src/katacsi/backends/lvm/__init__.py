"""Volumes as logical volumes of an LVM volume group on this node: linear, striped, RAID and thin."""

from katacsi.backends.lvm.backend import LvmBackend
from katacsi.backends.lvm.settings import LvmSettings

__all__ = ["LvmBackend", "LvmSettings"]
