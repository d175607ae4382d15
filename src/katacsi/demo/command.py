"""The command: what it needs, what it sets up, and that nothing stays of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from katacsi.demo import needs
from katacsi.demo.place import Place
from katacsi.demo.screen import screen_of
from katacsi.demo.story import Story, StoryEnded

if TYPE_CHECKING:
    from types import FrameType, TracebackType

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


@dataclass
class _Outcome:
    """How a run ended: by itself, by a signal, or because something was not as it should be."""

    signal: int = 0
    failure: str = ""
    log: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class _Signals:
    """From entering to leaving, keeps the signals that would end the process from doing so.

    The first of them cancels the story. What clears up afterwards is not hindered by any more of them.
    """

    def __init__(self) -> None:
        self.number = 0
        self._task: asyncio.Task[None] | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._note) for number in _ENDING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    async def play(self, story: Story) -> None:
        """Play the story until it ends or a signal comes."""
        self._task = asyncio.create_task(story.play())
        if self.number:
            self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            if not self.number:
                raise
        finally:
            story.end_guests()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if self._task is not None and not self._task.done():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def _run(folder: Path, *, keep: bool, plain: bool) -> int:
    """Play the story; give the exit code. Whatever happens, the place is cleared before the last line."""
    started = time.monotonic()
    outcome = _Outcome()
    with _Signals() as signals:
        place = Place.make(folder)
        screen = screen_of(plain=plain)
        story = Story(place, screen)
        try:
            with screen:
                asyncio.run(signals.play(story))
        except StoryEnded as error:
            outcome.failure = str(error)
            outcome.log = place.driver.tail()
        finally:
            outcome.left = place.clear(keep=keep)
        outcome.signal = signals.number
    if keep:
        screen.say(f"Kept: {place.disk}, with the configuration, the pool and the driver's log.")
    code = _report(outcome)
    if code == 0:
        screen.say(story.proven(time.monotonic() - started, everything_gone=not keep))
    return code


def _report(outcome: _Outcome) -> int:
    """Say on stderr what went wrong; give the exit code."""
    for line in outcome.log:
        click.echo(f"driver: {line}", err=True)
    for line in outcome.left:
        click.echo(f"Error: left behind: {line}", err=True)
    if outcome.failure:
        click.echo(f"Error: {outcome.failure}", err=True)
    if outcome.signal:
        click.echo("Interrupted." if outcome.left else "Interrupted; cleaned up.", err=True)
        return _SIGNALLED + outcome.signal
    return 1 if outcome.failure or outcome.left else 0
