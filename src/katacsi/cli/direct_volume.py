"""`katacsi direct-volume`: Kata's records by hand, with the flags of `kata-runtime direct-volume`.

Differences from kata-runtime, each because one of the runtimes would misread what kata-runtime writes:

* the record is checked before anything is written (kata-runtime leaves an empty folder behind, on which
  runtime-rs fails every container of that path), and written whole or not at all;
* the volume types `block` and `blk` are written as `directvol`: Go ignores the field, runtime-rs refuses
  them. The other types are not block devices, and are refused;
* mount options that only the host has a use for are left out: with `bind`, the Go runtime's mount fails;
* metadata other than `fsGroup` and `fsGroupChangePolicy` is refused: `createFilesystem` makes the guest
  format the device at each start of a container, `encryptionKey` has no effect without it, and the values
  of all others end in the shim's log;
* a path that is relative, contains `..` or is longer than Kata can look up is refused;
* a record that a live sandbox uses is not replaced.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from katacsi.cli.guests import resize, stats
from katacsi.cli.options import in_root, volume_path_option
from katacsi.cli.output import Output, output_option, print_facts, print_json, print_table
from katacsi.directvolume.names import RECORD_FILE, target_entry_name
from katacsi.directvolume.record import VOLUME_TYPE, DirectVolumeRecord, clean_options
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from katacsi.directvolume.entries import Entry
    from katacsi.directvolume.shim import Sandbox

_FLAG = "--mount-info"
#: Names of one thing: a block device that the guest mounts.
_BLOCK_TYPES = ("block", "blk", "")
_KEYS = frozenset({"volume-type", "device", "fstype", "metadata", "options"})
_METADATA = frozenset({"fsGroup", "fsGroupChangePolicy"})


@click.group("direct-volume")
def direct_volume() -> None:
    """Add, remove, list and show the records by which Kata finds volumes, and ask the guests about them.

    The flags are those of `kata-runtime direct-volume`, and so are the records. Without --root and --config
    the folder is the one where Kata looks: /run/kata-containers/shared/direct-volumes.
    """


direct_volume.add_command(stats)
direct_volume.add_command(resize)


@direct_volume.command()
@volume_path_option
@click.option(
    "--mount-info",
    required=True,
    metavar="JSON",
    help='Such as \'{"volume-type": "directvol", "device": "/dev/vg/data", "fstype": "ext4"}\'.',
)
@in_root
def add(root: Path, volume_path: str, mount_info: str) -> None:
    """Let Kata find a volume at a path.

    The record is checked first, by the stricter of the two Kata runtimes, and written atomically. What they
    would misread is refused (exit code 1) or, where the meaning is clear, mended with a warning: the volume
    types `block` and `blk` become `directvol`, mount options that only a host has a use for (`bind`,
    `rw`, `nofail`, …) are left out. Metadata may hold fsGroup and fsGroupChangePolicy.
    """
    target_entry_name(volume_path)
    record, warnings = _understood(mount_info)
    DirectVolumeWriter(root).add(volume_path, record)
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)


@direct_volume.command()
@volume_path_option
@in_root
def remove(root: Path, volume_path: str) -> None:
    """Take a path's record away, with the sandbox ids beside it; absent is success.

    Containers that run keep their volume; one that starts afterwards gets the host's folder instead. The
    record of a volume that `katacsi serve` published goes when its pod goes: leave it to NodeUnpublish.
    """
    DirectVolumeWriter(root).remove(volume_path)


@direct_volume.command("list")
@output_option()
@in_root
def list_(root: Path, output: Output) -> None:
    """List the records, whoever wrote them.

    PROBLEM says what a runtime would stumble over: a record that is torn or of another kind, or a folder
    without one.
    """
    entries = DirectVolumeWriter(root).listing()
    if output == "json":
        print_json([_as_json(entry) for entry in entries])
        return
    print_table(
        ("VOLUME PATH", "DEVICE", "FS", "OPTIONS", "PROBLEM"),
        [_row(entry) for entry in entries],
        empty=f"There are no records in {root}.",
    )


@direct_volume.command()
@volume_path_option
@output_option()
@in_root
def show(root: Path, volume_path: str, output: Output) -> None:
    """Show the record of a path, the file it is in, and the sandboxes that use it."""
    file = root / target_entry_name(volume_path) / RECORD_FILE
    writer = DirectVolumeWriter(root)
    record, sandboxes = writer.read(volume_path), writer.live(volume_path)
    if record is None:
        raise NotFound(f"{volume_path}: has no record ({file} is absent); see `katacsi direct-volume list`")
    if output == "json":
        live = [
            {"id": sandbox.id, "runtime": sandbox.dialect.value, "socket": str(sandbox.socket)}
            for sandbox in sandboxes
        ]
        print_json({"volume_path": volume_path, "file": str(file), "record": _raw(record), "sandboxes": live})
        return
    print_facts(
        (
            ("Volume path", volume_path),
            ("File", str(file)),
            ("Volume type", record.volume_type),
            ("Device", record.device),
            ("Filesystem", record.fs_type),
            ("Options", ",".join(record.options)),
            *((key, value) for key, value in record.metadata.items()),
            ("Sandboxes", ", ".join(_named(sandbox) for sandbox in sandboxes) or "none is live"),
        )
    )


def _named(sandbox: Sandbox) -> str:
    return f"{sandbox.id} ({sandbox.dialect.value})"


def _understood(mount_info: str) -> tuple[DirectVolumeRecord, list[str]]:
    """Read a record as a person gave it; also give what was mended.

    Raises:
        CorruptRecord: a runtime would not read it.
        InvalidRequest: a runtime would do something else than what is written there.
    """
    data = mount_info.encode("utf-8", "surrogateescape")
    record = DirectVolumeRecord.from_json(data, _FLAG)
    raw = json.loads(data)
    warnings = list(_unknown_keys(raw))
    if unknown := sorted(raw.get("metadata", {}).keys() - _METADATA):
        raise InvalidRequest(
            f"{_FLAG} metadata",
            f"{', '.join(unknown)} is not safe on a volume that keeps its data; leave it out "
            f"({' and '.join(sorted(_METADATA))} may be there)",
        )
    if record.volume_type != VOLUME_TYPE:
        if record.volume_type not in _BLOCK_TYPES:
            raise InvalidRequest(
                f"{_FLAG} volume-type",
                f"{record.volume_type!r} is no plain block device; katacsi hands over {VOLUME_TYPE!r} only",
            )
        warnings.append(
            f"volume-type {record.volume_type!r} is written as {VOLUME_TYPE!r}: runtime-rs refuses it, and "
            "the Go runtime does not read the field"
        )
    options = clean_options(record.options, read_only=False)
    if left_out := [option for option in record.options if option not in options]:
        warnings.append(f"options {', '.join(left_out)} left out: they mean nothing to a guest's mount")
    return replace(record, volume_type=VOLUME_TYPE, options=options), warnings


def _unknown_keys(raw: dict[str, Any]) -> Iterator[str]:
    for key in raw.keys() - _KEYS:
        hint = next((known for known in _KEYS if known == key.lower().replace("_", "-")), None)
        yield f"key {key!r} left out: Kata does not read it" + (f"; is {hint!r} meant?" if hint else "")


def _row(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    return (
        entry.target or entry.name,
        record.device if record else "",
        record.fs_type if record else "",
        ",".join(record.options) if record else "",
        entry.problem,
    )


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "volume_path": entry.target,
        "name": entry.name,
        "record": _raw(entry.record) if entry.record else None,
        "problem": entry.problem,
        "sandbox_ids": list(entry.sandbox_ids),
    }


def _raw(record: DirectVolumeRecord) -> Any:  # noqa: ANN401  # JSON is of any shape
    return json.loads(record.to_json())
