"""The root in which Kata looks for records: where it lies, on what, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from katacsi.findings import Checks, Harm, Unread, failure, ok, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.doctor.node import Judge, Node
    from katacsi.findings import Place, Result

RECORD_ROOT: Final[Checks[Judge]] = Checks("Records")

_MEMORY: Final = ("tmpfs", "ramfs")


@RECORD_ROOT.add(
    "records-root",
    "the root is a folder, and the node's own",
    Harm.DATA,
    "Kata reads records of the node. One that is written into a container's own folder is never found, and "
    "the pod gets the host's directory, which the guard makes read-only.",
)
def root(node: Node) -> Iterator[Result]:
    """Look whether Kata and katacsi mean the same folder."""
    place = node.records.place
    if isinstance(place, Unread):
        yield unknown("records", place.reason, "run doctor as root on the node")
    elif not place.exists and not node.contained:
        yield ok(place.path, "is not there yet; katacsi makes it")
    elif not place.exists:
        yield failure(place.path, "is not there in this container", _mount(place))
    elif not place.folder:
        yield failure(place.path, "is no folder", "find out what put it there, and remove it")
    elif place.hosts is False:
        yield failure(place.path, "is another folder than the node's", _mount(place))
    else:
        yield ok(place.path, "is a folder of the node")


def _mount(place: Place) -> str:
    return f"give the container the node's {place.path} (hostPath, DirectoryOrCreate)"


@RECORD_ROOT.add(
    "records-memory",
    "the root is in memory",
    Harm.DATA,
    "Devices get new numbers at a reboot. A record that outlives it names whatever device has that number "
    "then; Kata relies on /run being empty.",
)
def memory(node: Node) -> Iterator[Result]:
    """Look whether records go at a reboot."""
    place = node.records.place
    if isinstance(place, Unread) or (node.contained and not place.exists):
        return
    if place.mounted is None:
        yield unknown(place.path, "the filesystem it lies on is not known")
    elif place.mounted.type in _MEMORY:
        yield ok(place.path, f"on {place.mounted.type}")
    else:
        yield failure(
            place.path,
            f"on {place.mounted.type} ({place.mounted.target}), which outlives a reboot",
            f"mount a tmpfs at /run, or at {place.path}",
        )


@RECORD_ROOT.add(
    "records-mode",
    "the root belongs to root alone",
    Harm.DATA,
    "A record says which device of the node a guest gets: who can write one can read and write any disk.",
)
def mode(node: Node) -> Iterator[Result]:
    """Look who may write records."""
    place = node.records.place
    if isinstance(place, Unread) or not place.exists or not place.folder:
        return
    fact = f"mode {place.mode:04o}, owner {place.owner}"
    remedy = f"chown root: {place.path} && chmod 0700 {place.path}"
    if place.mode & 0o022 or place.owner != 0:
        yield failure(place.path, fact, remedy)
    elif place.mode & 0o077:
        yield warning(place.path, fact, f"{remedy} (katacsi does so with its next record)", Harm.NONE)
    else:
        yield ok(place.path, fact)
