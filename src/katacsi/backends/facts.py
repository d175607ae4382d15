"""The facts of a volume: what is known of its bytes, kept next to them."""

from __future__ import annotations

import enum
import functools
import json
from dataclasses import Field, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class FormatState(enum.Enum):
    """How far a volume's filesystem has come."""

    UNFORMATTED = "unformatted"  #: the backend left a blank device
    FORMATTING = "formatting"  #: mkfs with the recorded type and UUID may have begun
    FORMATTED = "formatted"  #: there is a filesystem; never mkfs again


@dataclass(frozen=True, slots=True)
class Facts:
    """What must outlive everything but the volume itself; kept next to the data, changed transactionally.

    Attributes:
        format: how far the filesystem has come.
        fs_type: the filesystem that was asked for, from the moment formatting began.
        fs_uuid: the UUID that mkfs was or will be given, in the 36-digit form.
        guest_written: a Kata guest had the raw device; the host kernel no longer trusts its filesystem.
        raw_written: a workload had the device itself, writable: the bytes are the workload's, whatever a
            probe says of them; never mkfs.
        inherited_uuid: the filesystem is a copy that may still carry its source's UUID.
        pending_size: the device grew to this many bytes, its filesystem, in a guest or mounted, not; 0: none.
        growing: a growth of the filesystem to this many bytes was begun, and its end was not seen; 0 if none.
        others: facts that a later version wrote, by key, in the backend's own form. They are kept, never
            read, and go to every copy.
    """

    format: FormatState = FormatState.UNFORMATTED
    fs_type: str = ""
    fs_uuid: str = ""
    guest_written: bool = False
    raw_written: bool = False
    inherited_uuid: bool = False
    pending_size: int = 0
    growing: int = 0
    others: tuple[tuple[str, str], ...] = ()

    def with_(self, **changes: object) -> Facts:
        """Give these facts with some of them changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # checked by the dataclass's own tests

    def of_copy(self) -> Facts:
        """Give the facts that a volume starts with when it is a copy of one with these.

        What was said about the bytes stays true of their copy (one of a half-grown filesystem is half grown);
        what was said about a guest that has the device does not.
        """
        formatted = self.format is not FormatState.UNFORMATTED
        return replace(self, inherited_uuid=formatted, pending_size=0)

    def to_dict(self) -> dict[str, object]:
        """Give what JSON can hold: each fact by its name, those of a later version among them."""
        stored: dict[str, object] = {each.name: getattr(self, each.name) for each in _known_facts()}
        return {**stored, "format": self.format.value, **{key: json.loads(text) for key, text in self.others}}

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Facts:
        """Read what `to_dict` gave, in this version, an earlier or a later one.

        Raises:
            ValueError: a fact has a value that it cannot have.
        """
        values: dict[str, Any] = {
            each.name: _fact(each.name, each.default, stored[each.name])
            for each in _known_facts()
            if each.name in stored
        }
        others = sorted((key, json.dumps(stored[key])) for key in stored.keys() - _known_names())
        return cls(**values, others=tuple(others))


@functools.cache
def _known_facts() -> tuple[Field[Any], ...]:
    return tuple(each for each in fields(Facts) if each.name != "others")


@functools.cache
def _known_names() -> frozenset[str]:
    return frozenset(each.name for each in _known_facts())


def _fact(name: str, default: object, value: object) -> object:
    if isinstance(default, FormatState):
        return FormatState(value)
    if type(value) is not type(default) or (isinstance(value, int) and value < 0):
        raise ValueError(f"{name} is {value!r}")
    return value
