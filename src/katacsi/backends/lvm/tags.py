"""What is written on an LV: one tag for each fact, in the same metadata commit as what it is about.

LVM's tags take letters, digits and `_+.-/=!:&#`. Other bytes of a value are written as `+` and two hex
digits, so tags stay readable in `lvs -o +tags`.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from katacsi.backends.api import Facts, FormatState
from katacsi.backends.lvm.settings import Wipe
from katacsi.backends.tools.existing import stored_source
from katacsi.errors import CorruptRecord, InvalidRequest
from katacsi.model import MalformedId, storage_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from katacsi.model import ContentSource

PREFIX: Final = "katacsi.io/"
#: lvm(8): a tag's length.
_MAX_TAG: Final = 1024

#: The keys that this version reads; any other is a fact of a later one.
_KEYS: Final = frozenset(
    {
        *("kind", "state", "driver", "pool", "name", "created", "source", "wipe", "layout"),
        *(state.value for state in FormatState),
        *("guest-written", "raw-written", "inherited-uuid", "pending-size", "growing"),
    }
)

_PLAIN = re.compile(rb"[A-Za-z0-9_.\-/=:]")
_ESCAPED = re.compile(rb"\+([0-9a-f]{2})")


class Kind(enum.Enum):
    """What an LV is for."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    VOLUME_CUT = "volume-cut"  #: of a volume that is being cloned
    SNAPSHOT_CUT = "snapshot-cut"  #: of a volume from which a thick snapshot is being copied
    GROWTH = "growth"  #: extents that are zeroed before a volume grows into them


class State(enum.Enum):
    """How far an object has come."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


def escape(text: str) -> str:
    """Write any text with the characters that a tag may have."""
    return "".join(
        chr(byte) if _PLAIN.match(bytes([byte])) else f"+{byte:02x}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def unescape(text: str) -> str:
    """Read what `escape` wrote.

    Raises:
        ValueError: it did not write this.
    """
    raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))
    return raw.decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Record:
    """What the tags of an LV say.

    Attributes:
        kind: what it is for.
        state: how far it has come.
        driver: the release that owns it.
        pool: the pool that owns it.
        csi_name: the name it was created under.
        created_at: seconds since the epoch; a snapshot's moment of the cut.
        source: the id of what it started from, or of what a snapshot was cut from.
        facts: see `Facts`.
        parameters: the backend's parameters it was created with.
        attributes: katacsi's own choices.
        wipe: what happens to its bytes on delete.
        layout: how it lies on the disks, as `Layout.text` writes it; settings may say otherwise by now.
    """

    kind: Kind
    state: State
    driver: str
    pool: str
    csi_name: str
    created_at: float
    source: str = ""
    facts: Facts = field(default_factory=Facts)
    parameters: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    wipe: Wipe = Wipe.NONE
    layout: str = ""

    @property
    def name(self) -> str:
        """The storage name."""
        return storage_name(self.csi_name)

    def with_(self, *, state: State | None = None, facts: Facts | None = None) -> Record:
        """Give this record with another state, or other facts."""
        return replace(self, state=state or self.state, facts=facts or self.facts)

    def content_source(self) -> ContentSource | None:
        """Give what it began as a copy of."""
        return stored_source(self.source)

    def tags(self) -> frozenset[str]:
        """Give the tags that say this.

        Raises:
            InvalidRequest: something is too long for a tag.
        """
        pairs = [
            ("kind", self.kind.value),
            ("state", self.state.value),
            ("driver", self.driver),
            ("pool", self.pool),
            ("name", self.csi_name),
            ("created", repr(self.created_at)),
            *([("source", self.source)] if self.source else []),
            *([("wipe", self.wipe.value)] if self.wipe is not Wipe.NONE else []),
            *([("layout", self.layout)] if self.layout else []),
            *_facts(self.facts),
            *((f"parameter/{key}", value) for key, value in self.parameters.items()),
            *((f"attribute/{key}", value) for key, value in self.attributes.items()),
        ]
        return frozenset(_tag(key, value) for key, value in pairs)


def _tag(key: str, value: str) -> str:
    tag = f"{PREFIX}{escape(key).replace('=', '+3d')}={escape(value)}"
    if len(tag) > _MAX_TAG:
        raise InvalidRequest(
            key, f"is too long to be stored with a volume: {len(tag)} of {_MAX_TAG} characters"
        )
    return tag


def _facts(facts: Facts) -> list[tuple[str, str]]:
    pairs = []
    if facts.format is not FormatState.UNFORMATTED or facts.fs_type or facts.fs_uuid:
        pairs.append((facts.format.value, f"{facts.fs_type}:{facts.fs_uuid}"))
    if facts.guest_written:
        pairs.append(("guest-written", "true"))
    if facts.inherited_uuid:
        pairs.append(("inherited-uuid", "true"))
    if facts.raw_written:
        pairs.append(("raw-written", "true"))
    if facts.pending_size:
        pairs.append(("pending-size", str(facts.pending_size)))
    if facts.growing:
        pairs.append(("growing", str(facts.growing)))
    return [*pairs, *facts.others]


@functools.lru_cache(maxsize=4096)
def parse(tags: frozenset[str], lv: str) -> Record | None:
    """Read the tags of an LV; None: it is none of ours.

    Raises:
        CorruptRecord: it is, but what is written on it cannot be used.
    """
    try:
        values = _values(tag.removeprefix(PREFIX) for tag in tags if tag.startswith(PREFIX))
        if "kind" not in values:
            return None
        record = Record(
            kind=Kind(values["kind"]),
            state=State(values["state"]),
            driver=values["driver"],
            pool=values["pool"],
            csi_name=values["name"],
            created_at=float(values["created"]),
            source=values.get("source", ""),
            wipe=Wipe(values.get("wipe", "none")),
            layout=values.get("layout", ""),
            facts=_parse_facts(values),
            parameters=_below("parameter/", values),
            attributes=_below("attribute/", values),
        )
        record.content_source()
    except (ValueError, KeyError, MalformedId) as error:
        raise CorruptRecord(
            f"{lv}: its tags cannot be used ({error!r}); its bytes were not touched. Mend the tags that "
            f"begin with {PREFIX} by lvchange --deltag and --addtag"
        ) from error
    return record


def _values(texts: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if unescape(key) in values:
            raise ValueError(f"{key} is there twice")
        values[unescape(key)] = unescape(value)
    return values


def _below(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {
        key.removeprefix(prefix): value for key, value in sorted(values.items()) if key.startswith(prefix)
    }


def _parse_facts(values: Mapping[str, str]) -> Facts:
    states = [state for state in FormatState if state.value in values]
    if len(states) > 1:
        raise ValueError(f"both {states[0].value} and {states[1].value}")
    state = states[0] if states else FormatState.UNFORMATTED
    fs_type, _, fs_uuid = values.get(state.value, "").partition(":")
    return Facts(
        format=state,
        fs_type=fs_type,
        fs_uuid=fs_uuid,
        guest_written="guest-written" in values,
        raw_written="raw-written" in values,
        inherited_uuid="inherited-uuid" in values,
        pending_size=int(values.get("pending-size", "0")),
        growing=int(values.get("growing", "0")),
        others=tuple(sorted((key, value) for key, value in values.items() if _is_a_later_fact(key))),
    )


def _is_a_later_fact(key: str) -> bool:
    return key not in _KEYS and not key.startswith(("parameter/", "attribute/"))
