"""One child process: its process group, its end, its output; blocking, for `katacsi.host.command` alone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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
        self._process = _start(executable, argv, environment, stdin)
        # The kernel tells the end by a descriptor, so neither a pipe that a grandchild holds open nor a
        # sleep between two looks at the process (subprocess.wait does that) delays it.
        self._pidfd = os.pidfd_open(self._process.pid)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pipes = {self._process.stdout.fileno(): stdout, self._process.stderr.fileno(): stderr}
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
        return self._process.wait()

    def close(self) -> None:
        """Let go of it. The subprocess module collects one that could not be killed, once it ends."""
        os.close(self._pidfd)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self, descriptor: int) -> bool:
        try:
            chunk = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return True
        self._pipes[descriptor].take(chunk)
        return bool(chunk)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _start(
    executable: str, argv: Sequence[str], environment: Mapping[str, str], stdin: bytes
) -> subprocess.Popen[bytes]:
    with contextlib.ExitStack() as stack:
        source = subprocess.DEVNULL
        if stdin:
            # A memory file instead of a pipe: nobody has to feed it while the command runs.
            memory = stack.enter_context(os.fdopen(os.memfd_create("stdin"), "wb"))
            memory.write(stdin)
            memory.seek(0)
            source = memory.fileno()
        return subprocess.Popen(
            argv,
            executable=executable,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
