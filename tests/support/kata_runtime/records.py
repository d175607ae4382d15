"""How the two runtimes look up and read a record; they disagree, and each in its own way is lenient.

Paths: src/runtime/pkg/direct-volume/utils.go (Go), src/libs/kata-types/src/mount.rs and
src/runtime-rs/crates/resource/src/volume/direct_volume.rs (runtime-rs).
"""

from __future__ import annotations

import base64
import errno
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RECORD_FILE = "mountInfo.json"


class CreateFailed(Exception):
    """The runtime refuses to create the container; the kubelet shows the message as an event."""


class Unusable(Exception):
    """The Go runtime logs this, and goes on as if there were no record (container.go, createBlockDevices)."""


@dataclass(frozen=True)
class Record:
    """A record, as its runtime understood it."""

    volume_type: str = ""
    device: str = ""
    fs_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def entry(root: Path, source: str) -> Path:
    """Where both look for a mount's source: URL-safe base64 with padding, of exactly these bytes."""
    return root / base64.urlsafe_b64encode(source.encode()).decode()


# -- the Go runtime ------------------------------------------------------------------------------------


def go_lookup(root: Path, source: str) -> Record | None:
    """Give the record of a mount's source; None: there is none, not even an empty folder matters.

    Raises:
        Unusable: a name that is too long, or a file that is no record.
    """
    try:
        data = (entry(root, source) / RECORD_FILE).read_bytes()
    except OSError as error:
        if error.errno == errno.ENOENT:  # all that os.IsNotExist takes for absent
            return None
        raise Unusable(str(error)) from error
    return go_parse(data)


def go_parse(data: bytes) -> Record:
    """Read as encoding/json does: keys in any case, the last of several, null for whatever is left out."""
    value = _go_json(data)
    known: dict[str, Any] = {"volume-type": "", "device": "", "fstype": "", "metadata": {}, "options": ()}
    for key, given in value or ():
        name = key.replace("\u017f", "s").lower()  # the long s: Go folds as Unicode does
        if name not in known or given is None:  # null leaves a string alone, and empties nothing else here
            if name in ("metadata", "options"):
                known[name] = {} if name == "metadata" else ()
            continue
        if name == "metadata":
            known[name] = known[name] | _go_metadata(given)  # a second object is decoded into the same map
        elif name == "options":
            known[name] = _go_options(given)
        elif isinstance(given, str):
            known[name] = _go_text(given)
        else:
            _unusable(key)
    return Record(known["volume-type"], known["device"], known["fstype"], known["metadata"], known["options"])


def _go_json(data: bytes) -> _Object | None:
    try:
        value = _json(data.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise Unusable(str(error)) from error
    if value is not None and not isinstance(value, _Object):
        _unusable("the record")
    return value


def _go_text(text: str) -> str:
    """Replace what is no character, as Go does: half of a surrogate pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _go_metadata(given: object) -> dict[str, str]:
    if not isinstance(given, _Object):
        _unusable("metadata")
    if not all(text is None or isinstance(text, str) for _, text in given):
        _unusable("metadata")
    return {_go_text(key): _go_text(text or "") for key, text in given}


def _go_options(given: object) -> tuple[str, ...]:
    if isinstance(given, _Object) or not isinstance(given, list):
        _unusable("options")
    if not all(word is None or isinstance(word, str) for word in given):
        _unusable("options")
    return tuple(_go_text(word or "") for word in given)


def _unusable(what: str) -> NoReturn:
    raise Unusable(f"json: cannot unmarshal {what}")


# -- runtime-rs ----------------------------------------------------------------------------------------


def rust_lookup(root: Path, source: str) -> Record | None:
    """Give the record of a mount's source; None: no folder, or a path that cannot be one.

    Raises:
        CreateFailed: the folder is there, and no record that serde takes. That a missing file was meant to be
            harmless is a bug kept here: the error is compared with the wrong type (direct_volume.rs:55).
    """
    folder = entry(root, source)
    try:
        is_directory = folder.is_dir()
    except OSError:  # a name too long: Path::exists() is false
        return None
    if not is_directory:
        return None
    try:
        return rust_parse((folder / RECORD_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise CreateFailed(
            f'unexpected error occurs when parse mount info for "{source}", with error {error}'
        ) from error


def rust_parse(data: bytes) -> Record:
    """Read as serde does: exact keys, each at most once, no null; unknown keys are allowed.

    Raises:
        ValueError: anything else.
    """
    value = _json(data.decode())
    fields = ("volume-type", "device", "fstype", "metadata", "options")
    if isinstance(value, list) and not isinstance(value, _Object) and len(value) <= len(fields):
        value = _Object(zip(fields, value, strict=False))  # serde takes a struct's values in their order, too
    if not isinstance(value, _Object):
        raise ValueError("invalid type, expected struct DirectVolumeMountInfo")  # noqa: TRY004  # as others
    known: dict[str, Any] = {}
    for key, given in value:
        if key in fields and key in known:
            raise ValueError(f"duplicate field `{key}`")
        known[key] = given
    for key in fields[:3]:
        if key not in known:
            raise ValueError(f"missing field `{key}`")
    read = [known.get(key) for key in fields]
    json.dumps([list(known), read], ensure_ascii=False).encode()  # a lone surrogate is no text to Rust
    metadata, options = known.get("metadata", _Object()), known.get("options", [])
    strings = [known[key] for key in fields[:3]]
    if not isinstance(metadata, _Object) or isinstance(options, _Object) or not isinstance(options, list):
        raise ValueError("invalid type, expected a map, or a sequence")  # noqa: TRY004
    if not all(isinstance(text, str) for text in (*strings, *dict(metadata).values(), *options)):
        raise ValueError("invalid type, expected a string")
    return Record(*strings, dict(metadata), tuple(options))


class _Object(list[tuple[str, Any]]):
    """A JSON object with its duplicates."""


def _json(text: str) -> Any:
    """Parse; a number of any length is one, though none has a meaning here."""
    return json.loads(text, object_pairs_hook=_Object, parse_constant=_no_constant, parse_int=float)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"invalid character in {word}")
