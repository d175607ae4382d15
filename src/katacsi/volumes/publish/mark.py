"""What a mark says: a staging, a publish or a freeze of ours, and the file that it is written to."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from katacsi.errors import CorruptRecord
from katacsi.volumes.parameters import FsGroupChangePolicy
from katacsi.volumes.publish.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from katacsi.backends.api import Device

_SCHEMA = 1
#: base64 of more bytes does not fit into a file name (NAME_MAX 255).
_LONGEST_PLAIN = 180


@dataclass(frozen=True, slots=True)
class Staged:
    """A NodeStage that ended well: what for, how it was attached, and with which devices.

    `publish_context` is what the volume is attached with again; secrets are never kept. `devices` are paths,
    the backend's first.
    """

    path: str
    volume_id: str
    access_type: str
    access_mode: str
    fs_type: str
    mount_flags: tuple[str, ...]
    publish_context: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()

    def on(self, devices: Sequence[Device]) -> Staged:
        """Give the mark of the same staging with these devices, the backend's first."""
        return replace(self, devices=tuple(str(device.path) for device in devices))


@dataclass(frozen=True, slots=True)
class Published:
    """A NodePublish that was begun, and how the volume goes to its pod.

    `pod` is `namespace/name`, where the kubelet told; only to be shown, so a mark without it is the same.
    """

    path: str
    volume_id: str
    mode: Mode
    access_type: str
    access_mode: str
    fs_type: str
    mount_flags: tuple[str, ...]
    read_only: bool
    mount_group: str
    fs_group_change_policy: FsGroupChangePolicy
    device: str
    staging: str
    pod: str = field(default="", compare=False)

    @property
    def target(self) -> Path:
        """Where the workload expects the volume."""
        return Path(self.path)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A staging path whose filesystem a copy has frozen: ours to thaw, also after a crash."""

    path: str
    volume_id: str


Mark = Staged | Published | Frozen

#: In which folder the marks of a kind lie.
FOLDERS: Final[Mapping[type[Mark], str]] = {
    Published: "published",
    Staged: "staged",
    Frozen: "frozen",
}
_NAMES: Final[Mapping[type[Mark], tuple[str, ...]]] = {
    kind: tuple(each.name for each in fields(kind)) for kind in FOLDERS
}


def encoded(item: Mark) -> bytes:
    """Give a mark as it is written."""
    # Not asdict, which copies each value: this is on the way of every publish.
    values = {"schema": _SCHEMA, **{name: getattr(item, name) for name in _NAMES[type(item)]}}
    return json.dumps(values, separators=(",", ":"), default=lambda mode: mode.value).encode()


def decoded(file: Path, data: bytes, kind: type[Mark]) -> Mark:
    """Read what `encoded` gave, from a file of this name.

    Raises:
        CorruptRecord: it is something else.
    """
    try:
        raw = json.loads(data)
        if raw.pop("schema") != _SCHEMA:
            raise CorruptRecord(f"{file}: written by another version of katacsi")
        for name in ("mount_flags", "devices"):
            if name in raw:
                raw[name] = tuple(raw[name])
        if "mode" in raw:
            raw["mode"] = Mode(raw["mode"])
        return kind(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRecord(
            f"{file}: not a mark that katacsi wrote ({error}); remove it if nothing is mounted"
        ) from error


def file_name(path: str) -> str:
    """Give the file name of a path's mark: base64url of it, or a hash where that would be too long."""
    raw = path.encode()
    if len(raw) <= _LONGEST_PLAIN:
        return base64.urlsafe_b64encode(raw).decode() + ".json"
    return "h-" + hashlib.sha256(raw).hexdigest() + ".json"
