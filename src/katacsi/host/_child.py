"""One child process: its process group, its end, its output; blocking, for `katacsi.host.command` alone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from katacsi.host import _spawn, processor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Children that were given up while they could not be killed, by process id.
_given_up: deque[int] = deque()


@dataclass(slots=True)
class Output:
    """What one pipe gave, up to a limit; the rest is read and dropped, so that the writer never waits."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    overflown: bool = False

    def take(self, chunk: bytes) -> None:
        """Keep what there is room for."""
        room = self.limit - len(self.data)
        self.overflown = self.overflown or len(chunk) > room
        self.data += chunk[:room]


class Child:
    """A running program in a session of its own, in the root directory, with nothing inherited.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        executable: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stdin: bytes,
        *,
        stdout: Output,
        stderr: Output,
    ) -> None:
        _collect_given_up()
        self._pid, out, err = _start(executable, argv, environment, stdin)
        self._pipes = {out: stdout, err: stderr}
        self._collected = False
        try:
            # The kernel tells the end by a descriptor, so neither a pipe that a grandchild holds open nor a
            # sleep between two looks at the process (subprocess.wait does that) delays it.
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            self._signal(signal.SIGKILL)
            self._let_go()
            raise
        self._poll = select.poll()
        for descriptor in (self._pidfd, *self._pipes):
            self._poll.register(descriptor, select.POLLIN)
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)

    def ends_within(self, seconds: float) -> bool:
        """Read what it writes until it ends; say whether it did so in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left * 1000):
                if descriptor == self._pidfd:
                    return True
                if not self._read(descriptor):
                    self._poll.unregister(descriptor)
        return False

    def ended_by_force(self, grace_s: float) -> bool:
        """Ask its group to end, then make it; say whether the child did, each time within so many seconds."""
        self._signal(signal.SIGTERM)
        if self.ends_within(grace_s):
            return True
        self._signal(signal.SIGKILL)
        return self.ends_within(grace_s)

    def collect(self) -> int:
        """Give the exit code of a child that ended, read the rest of its output, end what it left behind."""
        # Until the child is collected its number still names its group, and nobody else's. A daemon with a
        # session of its own (LVM starts such) is not in it.
        self._signal(signal.SIGKILL)
        for descriptor in self._pipes:
            self._read(descriptor)  # a pipe holds less than one read takes
        _, status = os.waitpid(self._pid, 0)
        self._collected = True
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Let go of it. One that could not be killed is collected when another starts after its end."""
        os.close(self._pidfd)
        self._let_go()

    def _let_go(self) -> None:
        for pipe in self._pipes:
            os.close(pipe)
        if not self._collected:
            _given_up.append(self._pid)

    def _read(self, descriptor: int) -> bool:
        try:
            chunk = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return True
        self._pipes[descriptor].take(chunk)
        return bool(chunk)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)


def _collect_given_up() -> None:
    # Each is taken out before it is asked for: two threads must not ask for the same number, which may be
    # another process's as soon as one of them was answered.
    for _ in range(len(_given_up)):
        with contextlib.suppress(IndexError, ChildProcessError):
            pid = _given_up.popleft()
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                _given_up.append(pid)


def _start(
    executable: str, argv: Sequence[str], environment: Mapping[str, str], stdin: bytes
) -> tuple[int, int, int]:
    """Start a program; give its process id, and where to read what it writes to stdout and to stderr."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        if stdin:
            # A memory file instead of a pipe: nobody has to feed it while the command runs.
            memory = its.enter_context(os.fdopen(os.memfd_create("stdin"), "wb"))
            memory.write(stdin)
            memory.seek(0)
            source = memory.fileno()
        else:
            source = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            its.callback(os.close, source)
        pipes = []
        for _ in range(2):
            reading, writing = os.pipe()
            ours.callback(os.close, reading)
            its.callback(os.close, writing)
            pipes.append((reading, writing))
        (out, to_out), (err, to_err) = pipes
        with processor.anywhere():
            pid = _spawn.start(executable, argv, environment, stdin=source, stdout=to_out, stderr=to_err)
        ours.pop_all()
    return pid, out, err
