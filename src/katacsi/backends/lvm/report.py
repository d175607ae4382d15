"""What LVM says about a volume group: one `lvm fullreport`, read into frozen values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from katacsi.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The sections that `fullreport` always has, and the fields that are asked of each.
FIELDS: Final = {
    "vg": "vg_uuid,vg_name,vg_seqno,vg_attr,vg_extent_size,vg_systemid,vg_lock_type,vg_missing_pv_count",
    "pv": "pv_uuid,pv_name,pv_size,pv_free,pv_attr",
    "lv": "lv_uuid,lv_name,lv_size,lv_tags,lv_role,origin,pool_lv,metadata_lv,lv_metadata_size,"
    "lv_health_status",
    "seg": "lv_uuid,segtype,zero,seg_pe_ranges",
    "pvseg": "pv_uuid",
}

_RANGE = re.compile(r"(/[^ ]+|\[unknown\]):(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Pv:
    """A disk of the group."""

    uuid: str
    name: str
    free_bytes: int
    missing: bool
    allocatable: bool


@dataclass(frozen=True, slots=True)
class Lv:
    """A logical volume.

    Attributes:
        role: LVM's words for it, such as `public` or `private`.
        origin: of a snapshot, the name of what it was cut from.
        pool: of a thin volume, the name of its pool.
        health: LVM's own word; empty if it has nothing to say.
        segment_type: such as `linear`, `raid1` or `thin`.
        zeroes: of a thin pool, whether it zeroes new blocks.
        ranges: the physical extents, as `/dev/sda:0-3`; empty where other LVs lie beneath.
    """

    uuid: str
    name: str
    size_bytes: int
    tags: frozenset[str] = frozenset()
    role: frozenset[str] = frozenset()
    origin: str = ""
    pool: str = ""
    metadata_lv: str = ""
    metadata_bytes: int = 0
    health: str = ""
    segment_type: str = ""
    zeroes: bool = False
    ranges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A volume group at one moment."""

    name: str
    uuid: str
    seqno: int
    extent_size: int
    missing_disks: int
    pvs: tuple[Pv, ...] = ()
    lvs: Mapping[str, Lv] = field(default_factory=dict)

    def snapshots_of(self, name: str) -> Iterator[Lv]:
        """Give the COW snapshots of an LV: they go with it if it is removed."""
        return (lv for lv in self.lvs.values() if lv.origin == name and not lv.pool)

    def extents(self, size_bytes: int) -> int:
        """Round a size up to extents."""
        return -(-size_bytes // self.extent_size)


def sections(answer: bytes, what: str) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of each section of a JSON report.

    Raises:
        HostError: it is no report.
    """
    try:
        report = json.loads(answer)["report"]
        found: dict[str, list[dict[str, Any]]] = {}
        for part in report:
            for section, rows in part.items():
                found.setdefault(section, []).extend(rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(f"lvm: its answer about {what} is no JSON report ({error!r})") from error
    return found


def parse(answer: bytes, name: str) -> Group | None:
    """Read the report about a group; None: it tells of no group.

    Raises:
        HostError: it cannot be read.
    """
    rows = sections(answer, f"volume group {name}")
    try:
        groups = rows.get("vg", [])
        if len(groups) != 1:
            return None
        group = groups[0]
        segments: dict[str, list[dict[str, Any]]] = {}
        for row in rows.get("seg", []):
            segments.setdefault(row["lv_uuid"], []).append(row)
        lvs = [_lv(row, segments.get(row["lv_uuid"], [])) for row in rows.get("lv", [])]
        return Group(
            name=group["vg_name"],
            uuid=group["vg_uuid"],
            seqno=int(group["vg_seqno"]),
            extent_size=int(group["vg_extent_size"]),
            missing_disks=_number(group["vg_missing_pv_count"]),
            pvs=tuple(_pv(row) for row in rows.get("pv", [])),
            lvs={lv.name: lv for lv in lvs},
        )
    except (KeyError, ValueError) as error:
        raise HostError(f"lvm: its report about volume group {name} cannot be read ({error!r})") from error


def _pv(row: Mapping[str, Any]) -> Pv:
    attributes = str(row["pv_attr"])
    return Pv(
        uuid=row["pv_uuid"],
        name=row["pv_name"],
        free_bytes=_number(row["pv_free"]),
        # pvs(8): the first letter is a for allocatable, the third m for missing.
        allocatable=attributes[:1] == "a",
        missing=attributes[2:3] == "m",
    )


def _lv(row: Mapping[str, Any], segments: list[dict[str, Any]]) -> Lv:
    ranges = tuple(
        match[0] for segment in segments for match in _RANGE.finditer(_text(segment["seg_pe_ranges"]))
    )
    return Lv(
        uuid=row["lv_uuid"],
        name=row["lv_name"].strip("[]"),
        size_bytes=_number(row["lv_size"]),
        tags=_list(row["lv_tags"]),
        role=_list(row["lv_role"]),
        origin=row["origin"].strip("[]"),
        pool=row["pool_lv"].strip("[]"),
        metadata_lv=row["metadata_lv"].strip("[]"),
        metadata_bytes=_number(row["lv_metadata_size"]),
        health=row["lv_health_status"],
        segment_type=segments[0]["segtype"] if segments else "",
        zeroes=any(str(segment["zero"]) in {"zero", "1"} for segment in segments),
        ranges=ranges,
    )


def _number(value: object) -> int:
    """Read a number, which is text in `json` and a number in `json_std`; what LVM has none for is 0."""
    return int(str(value)) if str(value) not in {"", "None"} else 0


def _list(value: object) -> frozenset[str]:
    """Read a list, which is text with commas in `json` and a list in `json_std`."""
    items = value if isinstance(value, list) else str(value).split(",")
    return frozenset(str(item) for item in items if item)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
