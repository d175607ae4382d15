"""`katacsi direct-volume stats` and `resize`: what the guests of a volume are asked, by hand.

The flags are those of `kata-runtime direct-volume`. Unlike it both commands speak to both runtimes and try
every sandbox that may use the volume (kata-runtime takes the first id, and fails when that one is dead), and
`stats` fails when no guest can tell (kata-runtime prints the shim's error and exits with 0).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from katacsi.cli.options import in_root, volume_path_option
from katacsi.cli.output import Output, output_option, print_json, print_table
from katacsi.directvolume import proof
from katacsi.directvolume.sandboxes import Sandboxes
from katacsi.directvolume.shim import ResizeOutcome
from katacsi.directvolume.shim_client import HttpShimClient
from katacsi.directvolume.writer import DirectVolumeWriter
from katacsi.errors import InvalidRequest, NotFound, Unavailable, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from katacsi.directvolume.shim import GuestStats, Resizing

#: The fields of one usage, as Kata's shims name them.
_USAGE = ("total", "used", "available", "unit")


@click.command()
@volume_path_option
@output_option()
@in_root
def stats(root: Path, volume_path: str, output: Output) -> None:
    """Show how full a volume is, by its guest's own count.

    "Available" is what is free, room that is reserved for root included: that is what Kata's agent counts.
    The exit code is 1 when no guest can tell, and the reasons of all that were asked are on stderr. JSON has
    the form in which kata-runtime prints it; unit 1 is bytes, 2 is inodes.
    """
    found = asyncio.run(_asking(root).ask_stats(volume_path))
    if output == "json":
        print_json({"usage": [dict(zip(_USAGE, row, strict=True)) for row in _usages(found)]})
        return
    rows = [
        (unit, *(str(number) for number in row[:3]))
        for unit, row in zip(("bytes", "inodes"), _usages(found), strict=True)
    ]
    print_table(("UNIT", *(name.upper() for name in _USAGE[:3])), rows, empty="")


@click.command()
@volume_path_option
@click.option(
    "--size",
    "size_bytes",
    required=True,
    type=click.IntRange(1, (1 << 64) - 1),
    metavar="BYTES",
    help="The size that the device has now, in bytes; no units.",
)
@in_root
def resize(root: Path, volume_path: str, size_bytes: int) -> None:
    """Have the guest's filesystem fill a device that has grown.

    The device itself is not touched: grow it first. No release of Kata can do this so far (its agent answers
    "not implemented"), which is exit code 1: restart the pod of a volume that `katacsi serve` published.
    """
    asked = asyncio.run(_resized(root, volume_path, size_bytes))
    reasons = "; ".join(asked.reasons)
    if asked.outcome is ResizeOutcome.NO_LIVE_SANDBOX:
        raise Unavailable(f"{volume_path}: no live sandbox is known to use it; there is no guest to tell")
    if asked.outcome is ResizeOutcome.UNSUPPORTED:
        raise Unsupported(
            f"{volume_path}: its runtime cannot grow a filesystem that is in use ({reasons}); restart the pod"
        )
    if asked.outcome is not ResizeOutcome.DONE:
        raise Unavailable(f"{volume_path}: whether it has grown is not known ({reasons}); see `stats`")


async def _resized(root: Path, volume_path: str, size_bytes: int) -> Resizing:
    writer = _asking(root)
    if (record := writer.read(volume_path)) is None:
        raise NotFound(f"{volume_path}: has no record; see `katacsi direct-volume list`")
    seen = proof.on_device(record.device)
    if seen is not None and seen.device_bytes < size_bytes:
        raise InvalidRequest("--size", f"{record.device} has {seen.device_bytes} bytes; grow it first")
    return await writer.ask_resize(volume_path, size_bytes)


def _asking(root: Path) -> DirectVolumeWriter:
    """Give a writer that asks guests."""
    return DirectVolumeWriter(root, sandboxes=Sandboxes(root), shim_client=HttpShimClient())


def _usages(found: GuestStats) -> tuple[tuple[int, int, int, int], ...]:
    return (
        (found.total_bytes, found.used_bytes, found.available_bytes, 1),
        (found.total_inodes, found.used_inodes, found.available_inodes, 2),
    )
