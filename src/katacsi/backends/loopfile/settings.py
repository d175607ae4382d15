"""What a loopfile pool can be told: its settings, and the StorageClass parameters of its volumes."""

from __future__ import annotations

import enum
from pathlib import Path  # noqa: TC003  # pydantic reads the annotation when the program runs
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from katacsi.backends.tools.parameters import check_known, one_of
from katacsi.model import MIB, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Loop devices have 4096-byte sectors from birth. On a reflink filesystem the first copy raises the file's
#: direct I/O alignment to that, and a filesystem made for 512-byte sectors would not mount any more.
SECTOR_SIZE = 4096

PARAMETER_PREFIX = "loopfile.katacsi.io/"
PARAMETERS = {
    "allocation": "How a volume takes its bytes from the pool: `sparse` (as they are written; what is "
    "discarded is given back) or `thick` (all at creation; discard is off). Default: the pool's setting.",
}


class Allocation(enum.Enum):
    """How a volume takes its bytes from the pool."""

    SPARSE = "sparse"
    THICK = "thick"


class CopyMode(enum.Enum):
    """How snapshots and clones are made."""

    AUTO = "auto"
    REFLINK = "reflink"
    FULL = "full"


class LoopfileSettings(BaseModel):
    """A loopfile pool: a folder on a filesystem of this node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path = Field(
        description="The folder that holds the pool, as an absolute path. It has to exist and belongs to "
        "this pool alone; files that katacsi did not make are tolerated and never touched."
    )
    require_mount: bool = Field(
        default=False,
        description="Refuse to start unless the folder is a mount point, so that a disk which is not "
        "mounted is never mistaken for an empty pool. Turn it on wherever the folder is a disk of its own.",
    )
    allocation: Allocation = Field(
        default=Allocation.SPARSE,
        description="How volumes take their bytes where their StorageClass does not say: `sparse` or "
        "`thick`.",
    )
    quota: Size | None = Field(
        default=None,
        description="Bytes that volumes and snapshots may be promised in all, before the overprovision "
        "ratio. Default: what the filesystem holds, less what others store on it.",
    )
    reserve: Size = Field(
        default=0, description="Bytes of the filesystem that volumes are to leave free. Default 0."
    )
    overprovision_ratio: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="How many bytes may be promised for each byte there is. At 1, the default, every volume "
        "can be written full; above it sparse volumes may together outgrow the pool, and writes to a full "
        "pool fail in the workload, so watch the pool's free space.",
    )
    copies: CopyMode = Field(
        default=CopyMode.AUTO,
        description="How snapshots and clones are made: `reflink` shares blocks at once (XFS and btrfs; "
        "elsewhere the pool refuses to start), `full` copies every byte, `auto` is `reflink` where the "
        "filesystem can.",
    )
    minimum_volume_size: Size = Field(
        default=MIB, gt=0, description="Bytes that the smallest volume has. Default 1Mi."
    )

    @field_validator("directory")
    @classmethod
    def _absolute(cls, directory: Path) -> Path:
        if not directory.is_absolute():
            raise ValueError(f"{directory} is a relative path; write it from the root")
        return directory

    def allocation_for(self, parameters: Mapping[str, str]) -> Allocation:
        """Say how a volume with these StorageClass parameters is allocated.

        Raises:
            InvalidRequest: a parameter is unknown or its value is not legal.
        """
        check_known(parameters, PARAMETERS, PARAMETER_PREFIX)
        return one_of(Allocation, "allocation", parameters, self.allocation, PARAMETER_PREFIX)
