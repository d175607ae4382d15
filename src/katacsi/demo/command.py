"""The command: what it needs, what it sets up, and that nothing stays of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from katacsi.demo import needs
from katacsi.demo.place import Place
from katacsi.demo.screen import screen_of
from katacsi.demo.story import Story, StoryEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.demo.screen import Screen

#: A shell's exit code for "ended by a signal" is this and the signal's number.
_SIGNALLED = 128
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to make the pool's folder; by default on a disk that has room, such as /var/tmp.",
)
@click.option("--keep", is_flag=True, help="Keep the configuration, the pool and the driver's log.")
@click.option("--plain", is_flag=True, help="Plain lines, even on a terminal.")
def demo(scratch: Path | None, *, keep: bool, plain: bool) -> None:
    """Walk a volume through its life, on this machine.

    Starts the real driver with a pool of loop devices in a scratch folder, and does over gRPC what a kubelet
    does: create, stage, publish to a Kata guest, snapshot, restore, expand, delete; kills the driver in
    between. Where Kata's guest would mount the device, a process in a mount namespace of its own does.

    Each line names a call, its time, and what it changed on this machine, as read back from the kernel and
    the files. Takes some seconds and some 50 MiB, needs root and loop devices (exit code 2 without), and
    leaves nothing behind, also when it fails (exit code 1) or is interrupted.
    """
    if missing := needs.missing():
        for line in missing:
            click.echo(f"Error: {line}", err=True)
        sys.exit(2)
    try:
        folder = needs.scratch_folder(scratch)
    except needs.NoRoom as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    sys.exit(_run(folder, keep=keep, plain=plain))


def _run(folder: Path, *, keep: bool, plain: bool) -> int:
    """Play the story; give the exit code. Whatever happens, the place is cleared before the last line."""
    started = time.monotonic()
    place = Place.make(folder)
    screen = screen_of(plain=plain)
    story = Story(place, screen)
    ended: str | None = None
    signalled = 0
    try:
        with screen:
            signalled = asyncio.run(_until_signal(story))
    except StoryEnded as error:
        ended = str(error)
    finally:
        with _unhindered():
            log = place.log_tail() if ended else []
            left = place.clear(keep=keep)
    return _end(
        screen, story, time.monotonic() - started, ended, signalled, log, left, place if keep else None
    )


async def _until_signal(story: Story) -> int:
    """Play the story; give the signal that ended it, or 0."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(story.play())
    got: list[int] = []

    def stop(number: int) -> None:
        got.append(number)
        task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not got:
            raise
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)
        story.end_guests()
    return got[0] if got else 0


@contextlib.contextmanager
def _unhindered() -> Iterator[None]:
    """Let no second Ctrl-C stop what the first one has begun."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _end(
    screen: Screen,
    story: Story,
    seconds: float,
    ended: str | None,
    signalled: int,
    log: list[str],
    left: list[str],
    kept: Place | None,
) -> int:
    for line in log:
        click.echo(f"driver: {line}", err=True)
    for line in left:
        click.echo(f"Error: left behind: {line}", err=True)
    if kept is not None:
        screen.say(
            f"Kept: {kept.pool_parent} (configuration, pool, driver's log); remove it when you are done."
        )
    if signalled:
        click.echo(
            f"Interrupted; {'nothing else was' if kept else 'nothing was'} left behind."
            if not left
            else "Interrupted.",
            err=True,
        )
        return _SIGNALLED + signalled
    if ended is not None:
        click.echo(f"Error: {ended}", err=True)
        return 1
    if left:
        return 1
    screen.say(story.proven(seconds, everything_gone=kept is None))
    return 0
