"""What is written next to the bytes: volume.json and snapshot.json.

A snapshot's record never changes; of a volume's the facts do, and `factfile` has room for them.
"""

from __future__ import annotations

import abc
import functools
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)

from katacsi.backends.api import Facts, Snapshot, Volume
from katacsi.backends.loopfile import factfile
from katacsi.backends.loopfile.settings import Allocation
from katacsi.backends.tools.existing import stored_source
from katacsi.errors import CorruptRecord, Precondition
from katacsi.model import Condition, ContentSource, MalformedId, SnapshotId, VolumeId

if TYPE_CHECKING:
    from pathlib import Path


def _facts_of(value: object) -> Facts:
    if isinstance(value, dict):
        return Facts.from_dict(value)
    if isinstance(value, Facts):
        return value
    raise ValueError("no facts")


#: Facts as JSON, in which those of a later version are kept.
StoredFacts = Annotated[Facts, PlainValidator(_facts_of), PlainSerializer(Facts.to_dict)]


class Record(BaseModel):
    """What the records of all kinds say."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    #: The name of the folder: a record that lies elsewhere was moved by hand.
    name: str
    csi_name: str
    size_bytes: int = Field(ge=0)
    #: The id of what this began as a copy of, or of what a snapshot was cut from.
    source: str = ""
    facts: StoredFacts = Facts()
    created_at: float

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` gave.

        Raises:
            ValueError: it is something else; a `ValidationError` says which key.
        """
        return cls.model_validate_json(data)

    @abc.abstractmethod
    def origin(self) -> object:
        """Give the source as ids.

        Raises:
            MalformedId: it is none.
        """

    def encode(self) -> bytes:
        """Give the record as it is written."""
        return self.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


class VolumeRecord(Record):
    """volume.json."""

    allocation: Allocation
    sector_size: Literal[4096] = 4096
    parameters: dict[str, str] = {}
    attributes: dict[str, str] = {}
    #: How often the facts were changed; it tells where they lie.
    changes: int = 0

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` gave, as it was left by the last `change`."""
        content = factfile.decode(data)
        record = cls.model_validate_json(content.line)
        return record.model_copy(
            update={"facts": _facts.validate_json(content.facts), "changes": content.number}
        )

    def encode(self) -> bytes:
        """Give the record as it is written as a whole.

        Raises:
            Precondition: it has no room for its facts.
        """
        line = self.model_dump_json(by_alias=True, exclude={"facts", "changes"}).encode()
        return factfile.encode(factfile.Content(line, self.changes, self._stored_facts()))

    def change(self, length: int) -> tuple[int, bytes]:
        """Give the offset and the bytes that turn a former record, of that many bytes, into this one.

        The former may differ in its facts, and in `changes` by one.

        Raises:
            Precondition: it has no room for its facts.
        """
        return factfile.overwriting(length, self.changes, self._stored_facts())

    def origin(self) -> ContentSource | None:
        """Give what it began as a copy of.

        Raises:
            MalformedId: the record says something else.
        """
        return stored_source(self.source)

    def volume(self, volume_id: VolumeId, size_bytes: int, condition: Condition) -> Volume:
        """Give what the record says, with what the file says."""
        return Volume(
            id=volume_id,
            csi_name=self.csi_name,
            size_bytes=size_bytes,
            facts=self.facts,
            source=self.origin(),
            parameters=self.parameters,
            attributes=self.attributes,
            condition=condition,
            created_at=self.created_at,
        )

    def _stored_facts(self) -> bytes:
        text = _facts.dump_json(self.facts)
        if len(text) > factfile.ROOM:
            raise Precondition(
                f"volume {self.name}: its facts have {len(text)} bytes, and its record has room for "
                f"{factfile.ROOM}; nothing was stored"
            )
        return text


class SnapshotRecord(Record):
    """snapshot.json."""

    def origin(self) -> VolumeId:
        """Give the volume it was cut from.

        Raises:
            MalformedId: the record does not say.
        """
        return VolumeId.parse(self.source)

    def snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        """Give what the record says."""
        return Snapshot(
            id=snapshot_id,
            csi_name=self.csi_name,
            source=self.origin(),
            size_bytes=self.size_bytes,
            created_at=self.created_at,
            facts=self.facts,
        )


AnyRecord = TypeVar("AnyRecord", bound=Record)

#: A file is read again each time, and taken apart only when its bytes are new: a life of a volume reads its
#: record eight times and changes it three times. So many files, of 12 KiB, serve the calls in flight.
_REMEMBERED: Final = 32

_facts: TypeAdapter[Facts] = TypeAdapter(StoredFacts)


@functools.lru_cache(maxsize=_REMEMBERED)
def _decoded(model: type[Record], data: bytes) -> Record:
    record = model.decode(data)
    record.origin()
    return record


def parse(model: type[AnyRecord], data: bytes, path: Path) -> AnyRecord:
    """Read a record.

    Raises:
        CorruptRecord: it is not one, was written by a newer katacsi, or lies in another object's folder.
    """
    remedy = "the bytes beside it were not touched; restore the record from a backup, or move the folder away"
    try:
        record = cast("AnyRecord", _decoded(model, data))
    except factfile.Damaged as error:
        raise CorruptRecord(f"{path}: cannot be used ({error}); {remedy}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise CorruptRecord(f"{path}: cannot be used ({key}: {first['msg']}); {remedy}") from error
    except MalformedId as error:
        raise CorruptRecord(f"{path}: cannot be used (source: no id: {error}); {remedy}") from error
    if record.name != path.parts[-2]:
        raise CorruptRecord(f"{path}: is the record of {record.name!r}; {remedy}")
    return record
