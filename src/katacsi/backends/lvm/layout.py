"""How volumes lie on disks: the legal layouts, what each costs, and how LVM is told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from katacsi.backends.lvm.settings import PARAMETER_PREFIX, PARAMETERS, VolumeType, Wipe
from katacsi.backends.tools.parameters import check_known, one_of
from katacsi.errors import InvalidRequest, Unsupported
from katacsi.model import MIB, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from katacsi.backends.lvm.settings import LvmSettings

_STRIPED: Final = {VolumeType.STRIPED, VolumeType.RAID5, VolumeType.RAID6, VolumeType.RAID10}
_MIRRORED: Final = {VolumeType.RAID1, VolumeType.RAID10}
_RAID: Final = {VolumeType.RAID1, VolumeType.RAID5, VolumeType.RAID6, VolumeType.RAID10}
_PARITY: Final = {VolumeType.RAID5: 1, VolumeType.RAID6: 2}
#: LVM's own least: raid5 and raid6 with fewer are refused as usage errors.
_LEAST_STRIPES: Final = {
    VolumeType.STRIPED: 2,
    VolumeType.RAID5: 2,
    VolumeType.RAID6: 3,
    VolumeType.RAID10: 2,
}
#: Parameter to the types that it says something about; `type` and `wipe` are for all.
_MEANT_FOR: Final = {
    "stripes": _STRIPED,
    "stripe-size": _STRIPED,
    "mirrors": _MIRRORED,
    "thin-pool": {VolumeType.THIN},
    "integrity": _RAID,
}
_THIN_POOL_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a volume are spread.

    Attributes:
        type: the kind.
        stripes: over how many disks the data is spread.
        stripe_size: bytes; 0 where nothing is striped.
        copies: how often each byte is stored.
        parity: disks' worth of parity.
        thin_pool: the thin pool's name; empty unless thin.
        integrity: checksums on each leg.
        wipe: what happens to the bytes on delete.
    """

    type: VolumeType = VolumeType.LINEAR
    stripes: int = 1
    stripe_size: int = 0
    copies: int = 1
    parity: int = 0
    thin_pool: str = ""
    integrity: bool = False
    wipe: Wipe = Wipe.NONE

    @property
    def thin(self) -> bool:
        """Whether the volume takes its bytes from a thin pool, as they are written."""
        return self.type is VolumeType.THIN

    @property
    def raid(self) -> bool:
        """Whether a disk may fail."""
        return self.type in _RAID

    @property
    def legs(self) -> int:
        """How many disks the volume lies on; for a linear one any number, so 1."""
        return self.stripes * self.copies + self.parity

    def fitting(self, extents: int) -> int:
        """Round a number of extents up to one that LVM would not have to round."""
        return -(-extents // self.stripes) * self.stripes

    def arguments(self) -> list[str]:
        """Give what `lvcreate` is told about the layout."""
        words = ["--type", self.type.value]
        if self.type in _STRIPED:
            words += ["--stripes", str(self.stripes), "--stripesize", f"{self.stripe_size}b"]
        if self.type in _MIRRORED:
            words += ["--mirrors", str(self.copies - 1)]
        if self.integrity:
            words += ["--raidintegrity", "y"]
        return words

    def text(self) -> str:
        """Write the layout down, for a tag."""
        numbers = ":".join(map(str, (self.stripes, self.stripe_size, self.copies, self.parity)))
        return f"{self.type.value}:{numbers}:{'integrity' if self.integrity else ''}:{self.thin_pool}"

    @classmethod
    def of_text(cls, text: str, wipe: Wipe) -> Layout:
        """Read what `text` wrote.

        Raises:
            ValueError: it did not write this.
        """
        kind, stripes, stripe_size, copies, parity, integrity, thin_pool = text.split(":")
        return cls(
            type=VolumeType(kind),
            stripes=int(stripes),
            stripe_size=int(stripe_size),
            copies=int(copies),
            parity=int(parity),
            thin_pool=thin_pool,
            integrity=bool(integrity),
            wipe=wipe,
        )

    def overhead(self, extents: int, extent_size: int) -> int:
        """Say how many extents a leg of so many extents needs besides: RAID metadata, checksums."""
        extra = 1 if self.raid else 0
        if self.integrity:
            extra += -(-_integrity_bytes(extents * extent_size) // extent_size)
        return extra


def _integrity_bytes(size: int) -> int:
    """Give the least that LVM sets aside for the checksums of a leg (lib/metadata/integrity_manip.c)."""
    journal = 4 if size <= 512 * MIB else 8 if size <= 1024 * MIB else 64
    return (size // (500 * MIB) + 1) * 4 * MIB + journal * MIB


def parse(parameters: Mapping[str, str], settings: LvmSettings) -> Layout:
    """Say how a volume with these StorageClass parameters lies on the disks.

    Raises:
        InvalidRequest: a parameter is unknown, not legal, or says nothing about volumes of this type.
    """
    check_known(parameters, PARAMETERS, PARAMETER_PREFIX)
    kind = one_of(VolumeType, "type", parameters, settings.default_type, PARAMETER_PREFIX)
    for key, types in _MEANT_FOR.items():
        if key in parameters and kind not in types:
            meant = ", ".join(sorted(member.value for member in types))
            raise _illegal(key, f"a {kind.value} volume has none; it is for {meant}")
    wipe = one_of(Wipe, "wipe", parameters, settings.wipe, PARAMETER_PREFIX)
    if kind is VolumeType.THIN:
        return _thin(parameters, settings, wipe)
    stripes = _number("stripes", parameters, _LEAST_STRIPES.get(kind, 1), _LEAST_STRIPES.get(kind, 1), 64)
    copies = 1 + _number("mirrors", parameters, 1, 1, 9) if kind in _MIRRORED else 1
    return Layout(
        type=kind,
        stripes=stripes,
        stripe_size=_stripe_size(parameters) if kind in _STRIPED else 0,
        copies=copies,
        parity=_PARITY.get(kind, 0),
        integrity=_flag("integrity", parameters),
        wipe=wipe,
    )


def check_stripes(layout: Layout, extent_size: int) -> None:
    """Refuse stripes that LVM would not make.

    Raises:
        Unsupported: they are larger than an extent of the volume group.
    """
    if layout.stripe_size > extent_size:
        raise Unsupported(
            f"{PARAMETER_PREFIX}stripe-size: {layout.stripe_size} is more than an extent of this volume "
            f"group, which has {extent_size} bytes; write less, or make the extents larger (vgchange -s)"
        )


def _thin(parameters: Mapping[str, str], settings: LvmSettings, wipe: Wipe) -> Layout:
    if wipe is Wipe.ZERO:
        raise _illegal("wipe", "zeroing a thin volume would fill its pool; write discard, signatures or none")
    pool = parameters.get("thin-pool", settings.thin_pool or "")
    if not _THIN_POOL_NAME.match(pool):
        what = f"{pool!r} is not a name that LVM takes" if pool else "a thin volume needs a thin pool"
        raise _illegal("thin-pool", f"{what}; name one here or as the pool's thin_pool")
    return Layout(type=VolumeType.THIN, thin_pool=pool, wipe=wipe)


def _illegal(key: str, fact: str) -> InvalidRequest:
    return InvalidRequest(PARAMETER_PREFIX + key, fact)


def _number(key: str, parameters: Mapping[str, str], default: int, least: int, most: int) -> int:
    text = parameters.get(key, str(default))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not least <= int(text) <= most:
        raise _illegal(key, f"{text!r} is not legal; write a number from {least} to {most}")
    return int(text)


def _stripe_size(parameters: Mapping[str, str]) -> int:
    text = parameters.get("stripe-size", "64Ki")
    try:
        size = parse_size(text)
    except ValueError as error:
        raise _illegal("stripe-size", str(error)) from None
    if size < 4096 or size > 1024 * MIB or size & (size - 1):
        raise _illegal("stripe-size", f"{text!r} is not legal; write a power of two from 4Ki")
    return size


def _flag(key: str, parameters: Mapping[str, str]) -> bool:
    text = parameters.get(key, "false")
    if text not in {"true", "false"}:
        raise _illegal(key, f"{text!r} is not legal; write true or false")
    return text == "true"
