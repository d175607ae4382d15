"""Which containers have a path mounted: read from the bundles that the container runtimes keep.

Each container has a folder with the OCI `config.json` that its shim was started with, as long as it exists.
containerd keeps them below its state directory, CRI-O below the run root of its storage; both note the
sandbox in an annotation (the keys are those of kata-containers, libs/kata-types/src/annotations).

A bundle that cannot be read is told apart from one that does not mention the path: it may be any container's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Where the runtimes of common distributions have a folder per container, and the bundle's way below it.
STOCK_PLACES = (
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json",
    "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json",
    "/run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json",
    "/run/containers/storage/overlay-containers/*/userdata/config.json",
)

_SANDBOX_KEYS = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")

# It becomes part of paths; kata-containers, libs/kata-sys-util/src/validate.rs, has the same rule.
_SANDBOX_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+\Z", re.ASCII)

#: A config.json has some 20 KB; what is larger is not read.
_MAX_BYTES = 4 << 20

# What Go's encoding/json writes otherwise than as it is, though JSON does not ask for it.
_GO_ESCAPES = str.maketrans(
    {"&": "\\u0026", "<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of one container."""

    sandbox: str
    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the bundles say, and which of them could not be read."""

    mounts: tuple[Mount, ...]
    unread: tuple[str, ...]

    def sandboxes_of(self, source: str) -> tuple[str, ...]:
        """Name the sandboxes that have a path mounted."""
        return tuple(dict.fromkeys(mount.sandbox for mount in self.mounts if mount.source == source))


def mounts_beside(places: Iterable[str], source: str) -> Found:
    """Read all mounts of all sandboxes that have a path mounted somewhere; it blocks.

    A place that is not there has no containers: that runtime is not used here, or is not shown to us.
    """
    unread: list[str] = []
    sandboxes = {
        mount.sandbox
        for data in _naming(places, [source], unread)
        for mount in _mounts(data, unread)
        if mount.source == source
    }
    # Read once more instead of kept: a full node's bundles are some megabytes.
    mounts = [
        mount
        for data in (_naming(places, sandboxes, unread) if sandboxes else ())
        for mount in _mounts(data, unread)
        if mount.sandbox in sandboxes
    ]
    return Found(tuple(mounts), tuple(dict.fromkeys(unread)))


def _naming(places: Iterable[str], texts: Iterable[str], unread: list[str]) -> Iterator[bytes]:
    """Give the bundles that hold one of these texts; the others are not worth the time to parse."""
    plain = [json.dumps(text, ensure_ascii=False) for text in texts]
    forms = {form for text in plain for form in (text, text.translate(_GO_ESCAPES))}
    wanted = [form.encode("utf-8", "surrogateescape") for form in forms]
    return (data for data in _whole(places, unread) if any(text in data for text in wanted))


def _whole(places: Iterable[str], unread: list[str]) -> Iterator[bytes]:
    for file in _files(places, unread):
        try:
            with file.open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue  # the container went meanwhile
        except OSError as error:
            unread.append(f"{file}: {error.strerror}")
            continue
        if data.rstrip().endswith(b"}") and len(data) <= _MAX_BYTES:
            yield data
        else:
            unread.append(f"{file}: is torn or too large")


def _files(places: Iterable[str], unread: list[str]) -> Iterator[Path]:
    for place in places:
        folder, _, below = place.partition("/*/")
        try:
            names = sorted(path.name for path in Path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unread.append(f"{folder}: {error.strerror}")
            continue
        yield from (Path(folder, name, below) for name in names)


def _mounts(data: bytes, unread: list[str]) -> list[Mount]:
    try:
        config = json.loads(data)
        sandbox = _sandbox(config.get("annotations") or {})
        mounts = config.get("mounts") or ()
        return [Mount(sandbox, str(m.get("source", "")), str(m["destination"])) for m in mounts if sandbox]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        unread.append(f"a bundle of {len(data)} bytes makes no sense ({error!r})")
        return []


def _sandbox(annotations: dict[str, Any]) -> str:
    named = next((str(annotations[key]) for key in _SANDBOX_KEYS if annotations.get(key)), "")
    return named if _SANDBOX_ID.match(named) else ""
