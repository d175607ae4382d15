"""What a request is about, as frozen values without any wire format."""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import BeforeValidator, WithJsonSchema

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20
GIB = 1 << 30

#: CSI: a string field that names something is at most 128 bytes of UTF-8.
MAX_NAME_BYTES = 128

_POOL = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")
_POOL_UID = re.compile(r"[0-9a-f]{8}\Z")
_STORAGE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_QUANTITY = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?([KMGTPE]i|[kKMGTPE])?\Z")
_UNITS = "KMGTPE"


def parse_size(text: object) -> int:
    """Read a size as Kubernetes writes it: a number of bytes, or one with Ki, Mi, Gi, Ti or k, M, G, T.

    Raises:
        ValueError: it has another form, is negative, or is no whole number of bytes.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is not a size; write bytes or a quantity such as 512Mi, 1.5Gi or 20G")
    whole, decimals, unit = match[1], match[2] or "", match[3] or ""
    power = _UNITS.index(unit[0].upper()) + 1 if unit else 0
    factor: int = (1024 if unit.endswith("i") else 1000) ** power
    divisor: int = 10 ** len(decimals)
    size, rest = divmod(int(whole + decimals) * factor, divisor)
    if rest:
        raise ValueError(f"{text!r} is no whole number of bytes")
    return size


def format_size(size_bytes: int) -> str:
    """Write a size for people, in the largest binary unit that it reaches: `1.5Gi`, rounded to two digits."""
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_UNITS))
    if power == 0:
        return f"{size_bytes} bytes"
    number = f"{size_bytes / 1024**power:.2f}".rstrip("0").rstrip(".")
    return f"{number}{_UNITS[power - 1]}i"


#: A size in settings: an integer of bytes, or a Kubernetes quantity.
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,9})?([KMGTPE]i|[kKMGTPE])?$"},
            ]
        }
    ),
]


def is_storage_name(text: str) -> bool:
    """Whether `storage_name` can have given this name."""
    return _STORAGE_NAME.match(text) is not None


def storage_name(csi_name: str) -> str:
    """Give the name under which storage keeps a CSI name: itself where it is plain, else a hash of it.

    The result is safe as a file, LVM or iSCSI name, and equal for equal input on every node and version.
    """
    if _STORAGE_NAME.match(csi_name) and not csi_name.startswith("h-"):
        return csi_name
    return "h-" + hashlib.sha256(csi_name.encode()).hexdigest()[:32]


class MalformedId(ValueError):
    """The text is not an id that katacsi gives out."""


@dataclass(frozen=True, slots=True)
class ObjectId:
    """What an id says: the pool, the identity of that pool's storage, and the name within it."""

    pool: str
    pool_uid: str
    name: str

    PREFIX: ClassVar[str] = ""
    KIND: ClassVar[str] = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id.

        Raises:
            MalformedId: it has another form; what that means differs from call to call.
        """
        parts = text.split(":")
        if len(parts) != 4 or parts[0] != cls.PREFIX:
            raise MalformedId(text)
        _, pool, uid, name = parts
        if not (_POOL.match(pool) and _POOL_UID.match(uid) and _STORAGE_NAME.match(name)):
            raise MalformedId(text)
        return cls(pool, uid, name)

    def __str__(self) -> str:
        return f"{self.PREFIX}:{self.pool}:{self.pool_uid}:{self.name}"


@dataclass(frozen=True, slots=True)
class VolumeId(ObjectId):
    """The id of a volume: `v1:<pool>:<pool uid>:<storage name>`."""

    PREFIX = "v1"
    KIND = "volume"
    __str__ = ObjectId.__str__


@dataclass(frozen=True, slots=True)
class SnapshotId(ObjectId):
    """The id of a snapshot: `s1:<pool>:<pool uid>:<storage name>`."""

    PREFIX = "s1"
    KIND = "snapshot"
    __str__ = ObjectId.__str__


class AccessType(enum.Enum):
    """How a workload sees the volume: a mounted filesystem or a raw block device."""

    MOUNT = "mount"
    BLOCK = "block"


class AccessMode(enum.Enum):
    """CSI's access modes, by their CSI names."""

    SINGLE_NODE_WRITER = "SINGLE_NODE_WRITER"
    SINGLE_NODE_READER_ONLY = "SINGLE_NODE_READER_ONLY"
    MULTI_NODE_READER_ONLY = "MULTI_NODE_READER_ONLY"
    MULTI_NODE_SINGLE_WRITER = "MULTI_NODE_SINGLE_WRITER"
    MULTI_NODE_MULTI_WRITER = "MULTI_NODE_MULTI_WRITER"
    SINGLE_NODE_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"
    SINGLE_NODE_MULTI_WRITER = "SINGLE_NODE_MULTI_WRITER"

    @property
    def single_node(self) -> bool:
        """Whether the mode confines the volume to one node at a time."""
        return self.value.startswith("SINGLE_NODE")

    @property
    def read_only(self) -> bool:
        """Whether nobody may write."""
        return self.value.endswith("READER_ONLY")


@dataclass(frozen=True, slots=True)
class Capability:
    """What a caller wants to do with a volume.

    `fs_type` is empty where the caller left the choice to the driver, and for block access.
    """

    access_type: AccessType
    access_mode: AccessMode
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()
    mount_group: str = ""


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The size a caller accepts, in bytes; 0 means "no wish" for `required` and "no limit" for `limit`."""

    required: int = 0
    limit: int = 0

    def admits(self, size_bytes: int) -> bool:
        """Whether a volume of this size is what the caller asked for."""
        return size_bytes >= self.required and (self.limit == 0 or size_bytes <= self.limit)


@dataclass(frozen=True, slots=True)
class ContentSource:
    """The snapshot or the volume whose bytes a new volume starts with."""

    id: SnapshotId | VolumeId


@dataclass(frozen=True, slots=True)
class Topology:
    """Where a volume can be used: segments such as `{"topology.local.katacsi.io/node": "worker-1"}`."""

    segments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether a volume is as healthy as it should be, and in words what is wrong or special."""

    abnormal: bool = False
    message: str = "healthy"
