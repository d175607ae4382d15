"""How a guest is talked to: QEMU's monitor (QMP), and a port over which commands are run in the guest.

Both are socket pairs whose other end QEMU has from its start: nothing to wait for, no file that could be
left, and when QEMU dies whoever waits knows at once.

Standard library only.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

#: Beyond a command's own limit, which the guest keeps: it may be slow, but it answers.
GRACE_S = 15
MONITOR_TIMEOUT_S = 60


class MonitorError(Exception):
    """QEMU refused a command; the message is its own."""


@dataclass(frozen=True)
class Answer:
    """What came of a command in the guest."""

    code: int
    output: str
    """Standard output and error, as they came."""


class Wire:
    """Our end of a socket pair, read by lines or by counted bytes.

    Raises:
        EOFError: from every method, when QEMU is gone.
        TimeoutError: from what reads, when the deadline (a time of time.monotonic) has passed.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._pending = bytearray()

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.theirs.close()

    def send(self, content: bytes) -> None:
        """Send all of it."""
        try:
            self._ours.settimeout(GRACE_S)
            self._ours.sendall(content)
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError from error

    def line(self, deadline: float) -> bytes:
        """Return the next line, without its end."""
        while b"\n" not in self._pending:
            self._receive(deadline)
        return self._take(self._pending.index(b"\n") + 1)[:-1]

    def exactly(self, size: int, deadline: float) -> bytes:
        """Return the next bytes."""
        while len(self._pending) < size:
            self._receive(deadline)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken

    def _receive(self, deadline: float) -> None:
        self._ours.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            piece = self._ours.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError from error
        if not piece:
            raise EOFError
        self._pending += piece


class Port:
    """Runs commands in the guest, one at a time; tools/guest_init.sh is at the other end."""

    def __init__(self) -> None:
        self.wire = Wire()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def run(self, command: str, timeout_s: float) -> Answer:
        """Run a command of the guest's shell; the limit counts from when it is its turn.

        Raises:
            TimeoutError: it took too long, and has been killed, as far as the guest still answers.
            EOFError: QEMU is gone.
        """
        with self._lock:
            number = next(self._numbers)
            started = time.monotonic()
            encoded = base64.b64encode(command.encode()).decode()
            self.wire.send(f"{number} {math.ceil(timeout_s)} {encoded}\n".encode())
            answer = self._answer_to(number, started + math.ceil(timeout_s) + GRACE_S, command)
        if answer.code == 128 + 9 and time.monotonic() - started >= timeout_s:
            raise TimeoutError(f"in the guest, killed after {timeout_s:g} s: {command}\n{answer.output}")
        return answer

    def _answer_to(self, number: int, deadline: float, command: str) -> Answer:
        try:
            while True:
                of, code, size = map(int, self.wire.line(deadline).split())
                output = self.wire.exactly(size, deadline).decode(errors="replace")
                if of == number:  # and not the late answer to a command that was given up
                    return Answer(code, output)
        except TimeoutError as error:
            raise TimeoutError(f"the guest does not answer: {command}") from error


class Monitor:
    """QEMU's monitor: commands, and the events that they cause. Source: QEMU's qmp-spec."""

    def __init__(self) -> None:
        self.wire = Wire()
        self._events: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def greet(self, timeout_s: float) -> None:
        """Take QEMU's greeting, after which it takes commands."""
        self.wire.line(time.monotonic() + timeout_s)
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: object) -> None:
        """Run a command of the monitor; an underscore in an argument's name stands for a hyphen.

        Raises:
            MonitorError: QEMU refused it.
            EOFError: QEMU is gone.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._lock:
            self.wire.send(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
            while True:
                message = self._message(time.monotonic() + MONITOR_TIMEOUT_S, command)
                if "error" in message:
                    raise MonitorError(f"{command}: {message['error']['desc']}")
                if "return" in message:
                    return

    def wait_for(self, event: str, device: str, timeout_s: float) -> None:
        """Wait for an event of a device; it may have come already."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while True:
                for seen in self._events:
                    if seen["event"] == event and seen["data"].get("device") == device:
                        self._events.remove(seen)
                        return
                self._message(deadline, f"{event} of {device}")

    def _message(self, deadline: float, wanted: str) -> dict[str, Any]:
        try:
            message: dict[str, Any] = json.loads(self.wire.line(deadline))
        except TimeoutError as error:
            raise TimeoutError(f"QEMU does not answer: {wanted}") from error
        if "event" in message:
            self._events.append(message)
        return message
