"""What an LVM pool can be told: its settings, and the StorageClass parameters of its volumes."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from katacsi.model import Size

#: lvm(8), "VALID NAMES": what volume groups, logical volumes and tags may be called.
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*\Z")
_TAG = re.compile(r"[A-Za-z0-9_+./=!:&#-]+\Z")

PARAMETER_PREFIX = "lvm.katacsi.io/"
PARAMETERS = {
    "type": "How a volume lies on the disks: `linear`, `striped`, `raid1`, `raid5`, `raid6`, `raid10` or "
    "`thin`. Default: the pool's setting.",
    "stripes": "Over how many disks the data of a `striped`, `raid5`, `raid6` or `raid10` volume is spread, "
    "parity and copies not counted. Default: 2; 3 for `raid6`.",
    "stripe-size": "How many bytes lie on a disk before the next one's turn: a power of two from 4Ki, at "
    "most one extent. Default 64Ki.",
    "mirrors": "How many copies a `raid1` or `raid10` volume has besides the first. Default 1.",
    "thin-pool": "The thin pool of a `thin` volume, by name. Default: the pool's setting.",
    "integrity": "`true`: a RAID volume keeps checksums (dm-integrity) and repairs silent corruption. "
    "Default `false`.",
    "wipe": "What happens to the bytes of a deleted volume: `none`, `signatures`, `discard` or `zero`. "
    "Default: the pool's setting.",
}


class VolumeType(enum.Enum):
    """How a volume lies on the disks."""

    LINEAR = "linear"
    STRIPED = "striped"
    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"
    THIN = "thin"


#: Its schema names the types; to leave the choice to us, leave the key out.
_PoolType = Annotated[VolumeType | None, WithJsonSchema({"enum": [member.value for member in VolumeType]})]


class Wipe(enum.Enum):
    """What happens to the bytes of a deleted volume."""

    NONE = "none"
    SIGNATURES = "signatures"
    DISCARD = "discard"
    ZERO = "zero"


class Zero(enum.Enum):
    """How much of a new thick volume is zeroed."""

    ALL = "all"
    EDGES = "edges"


class Exec(enum.Enum):
    """Whose LVM is run."""

    AUTO = "auto"
    CONTAINER = "container"
    HOST = "host"


class LvmSettings(BaseModel):
    """An LVM pool: a volume group of this node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    volume_group: str | None = Field(
        default=None,
        description="The volume group's name. It has to exist. Give this or `volume_group_tag`.",
    )
    volume_group_tag: str | None = Field(
        default=None,
        description="A tag that exactly one volume group of each node carries (`vgchange --addtag`), where "
        "the names differ from node to node.",
    )
    type: _PoolType = Field(
        default=None,
        description="How volumes lie on the disks where their StorageClass does not say. Default: `thin` if "
        "`thin_pool` is set, else `linear`.",
    )
    thin_pool: str | None = Field(
        default=None,
        description="The thin pool of `thin` volumes, by name. It has to exist in the volume group and to "
        "zero new blocks (`lvcreate -Zy`, LVM's default).",
    )
    overprovision_ratio: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="How many bytes thin volumes and snapshots may be promised for each byte of their thin "
        "pool. At 1, the default, all of them can be written full; above it watch the pool.",
    )
    reserve: Size = Field(
        default=0,
        description="Bytes of the volume group (of the thin pool, for thin volumes) that volumes are to "
        "leave free. Default 0.",
    )
    wipe: Wipe = Field(
        default=Wipe.NONE,
        description="What happens to the bytes of deleted volumes where their StorageClass does not say: "
        "`none`, `signatures` (of filesystems and the like), `discard` or `zero`. New volumes read as zero "
        "in any case.",
    )
    zero: Zero = Field(
        default=Zero.ALL,
        description="How much of a new volume that is not thin is zeroed: `all`, or `edges`, the first and "
        "last MiB. With `edges` a workload can read what a former one left on the disks: only for nodes with "
        "one tenant.",
    )
    thin_data_limit: float = Field(
        default=95.0,
        gt=0,
        le=100,
        description="Percent of a thin pool's data from which on it takes no new volumes and its volumes are "
        "abnormal.",
    )
    thin_metadata_limit: float = Field(
        default=90.0,
        gt=0,
        le=100,
        description="Percent of a thin pool's metadata from which on it takes no new volumes and its volumes "
        "are abnormal. A pool whose metadata is full needs repair.",
    )
    thin_autoextend_threshold: int = Field(
        default=100,
        ge=50,
        le=100,
        description="Percent of a thin pool's data or metadata at which katacsi enlarges it from the volume "
        "group. 100, the default: never.",
    )
    thin_autoextend_percent: int = Field(
        default=20, ge=1, le=100, description="By how many percent a thin pool is then enlarged. Default 20."
    )
    exec: Exec = Field(
        default=Exec.AUTO,
        description="Whose LVM is run: `container` (the one beside katacsi), `host` (by nsenter, needs "
        "hostPID) or `auto` (the container's, else the host's).",
    )
    program: str = Field(
        default="lvm", description="The LVM program, by name or absolute path. Default `lvm`."
    )
    devices: tuple[str, ...] = Field(
        default=(),
        description="The disks that LVM may look at, as absolute paths in which * stands for anything but a "
        "slash. Default: every block device but loop, rbd, drbd, nbd, zram and zvol devices, on which guests "
        "keep LVM of their own.",
    )
    lock_directory: Path = Field(
        default=Path("/run/lock/lvm"),
        description="The folder of LVM's locks. It has to be the host's own, or LVM on the host and katacsi "
        "would change the volume group at the same time.",
    )
    archive_directory: Path | None = Field(
        default=None,
        description="A folder on the host for LVM's metadata backups, from which `vgcfgrestore` can undo "
        "accidents. Default: none are kept.",
    )
    command_timeout: float = Field(
        default=120.0, gt=0, description="Seconds after which an LVM command is stopped. Default 120."
    )

    @field_validator("volume_group", "thin_pool")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name is not None and (not _NAME.match(name) or name in {".", ".."}):
            raise ValueError(f"{name!r} is not a name that LVM takes (letters, digits, + _ . -)")
        return name

    @field_validator("volume_group_tag")
    @classmethod
    def _tagged(cls, tag: str | None) -> str | None:
        if tag is not None and not _TAG.match(tag):
            raise ValueError(f"{tag!r} is not a tag that LVM takes (letters, digits, _ + . - / = ! : & #)")
        return tag

    @field_validator("devices")
    @classmethod
    def _devices(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        for device in devices:
            if not re.fullmatch(r"/[A-Za-z0-9_+.:=@,/*-]+", device):
                raise ValueError(f"{device!r} is not an absolute path of a device")
        return devices

    @field_validator("lock_directory", "archive_directory")
    @classmethod
    def _folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not re.fullmatch(r"/[A-Za-z0-9_+.:=@,/-]*", str(folder)):
            raise ValueError(f"{folder} is not an absolute path of letters, digits and _ + . : = @ , / -")
        return folder

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.volume_group is None) == (self.volume_group_tag is None):
            raise ValueError("give either volume_group or volume_group_tag")
        if self.type is VolumeType.THIN and self.thin_pool is None:
            raise ValueError("type: thin needs thin_pool, the name of a thin pool in the volume group")
        return self

    @property
    def default_type(self) -> VolumeType:
        """How volumes lie on the disks where nobody says."""
        return self.type or (VolumeType.THIN if self.thin_pool else VolumeType.LINEAR)
