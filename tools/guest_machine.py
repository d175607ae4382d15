"""A guest's life: it boots, runs commands, is given devices, and leaves nothing.

Standard library only.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import guest_packages
from guest_disks import Disks
from guest_processes import Group
from guest_qemu import Hardware, Share
from guest_wires import Answer, Monitor, Port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping
    from types import TracebackType

BOOT_TIMEOUT_S = 120


class Died(Exception):
    """QEMU is gone, by itself or by `kill`; the message ends with the guest's console."""


class Guest:
    """A machine that boots on enter; when it is left no process and no file of it is there any more.

    Every method blocks, and may be called from any thread. A method whose machine is gone raises Died.
    """

    boot_seconds: float
    """From the start of QEMU until the guest answered."""

    def __init__(
        self,
        *,
        memory: int = 512 << 20,
        cpus: int = 1,
        shares: Mapping[str, Share] | None = None,
        iothread: bool = False,
        fio: bool = False,
        cpu: str = "max",
        accelerator: str = "tcg,thread=multi",
        modules: tuple[str, ...] = (),
        disks: tuple[Path, ...] = (),
    ) -> None:
        self._hardware = Hardware(memory, cpus, cpu, accelerator, iothread, dict(shares or {}), disks)
        self._fio, self._modules = fio, modules
        self._leave = contextlib.ExitStack()

    def __enter__(self) -> Guest:
        """Boot.

        Raises:
            Unavailable: a part is missing and cannot be fetched.
            Died: it does not boot.
        """
        parts = guest_packages.prepare(fio=self._fio, modules=self._modules)
        with contextlib.ExitStack() as stack:
            self._start(parts, stack)
            with self._watched():
                self._monitor.greet(BOOT_TIMEOUT_S)
                self._own_port.run("true", BOOT_TIMEOUT_S)
                self._port.run("true", BOOT_TIMEOUT_S)
            self.boot_seconds = time.monotonic() - self._started
            self._leave = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.close()

    def run(self, command: str, *, timeout: float = 60) -> Answer:
        """Run a command of the guest's shell (busybox); concurrent callers wait for each other.

        What it starts with `setsid … &` goes on afterwards.

        Raises:
            TimeoutError: it took longer than so many seconds, and has been killed.
            Died: the machine is gone.
        """
        with self._watched():
            return self._port.run(command, timeout)

    def plug(self, device: Path, serial: str, *, read_only: bool = False) -> str:
        """Hot-plug a block device, or a regular file, of the host; return its node once the guest has it.

        The cache is off and discard is not passed on, as Kata has it.

        Raises:
            MonitorError: QEMU cannot open it.
            TimeoutError: the guest does not notice it; `unplug` it all the same.
        """
        with self._watched():
            return self._disks.plug(device, serial, read_only=read_only)

    def unplug(self, serial: str) -> None:
        """Take a device away; afterwards nothing of the machine has it open."""
        with self._watched():
            self._disks.unplug(serial)

    def resize(self, serial: str, size_bytes: int) -> None:
        """Tell the guest of a device's new size; return when it has it.

        The device of the host has to have that size already; a regular file is made so long.
        """
        with self._watched():
            self._disks.resize(serial, size_bytes)

    def kill(self) -> None:
        """Cut the power: what the guest has not flushed is lost. No process but ours is left."""
        for process in (self._qemu, *self._daemons):
            process.kill()
            process.wait()

    def is_off(self) -> bool:
        """Tell whether QEMU has ended, in whatever way."""
        return self._qemu.poll() is not None

    def last_words(self) -> str:
        """Return the end of what QEMU and the guest's console said."""
        said = ""
        for name in ("log", "console"):
            with contextlib.suppress(OSError):
                said += (self._folder / name).read_text("utf-8", "replace")[-3000:]
        return said.strip() or "(it said nothing)"

    def _start(self, parts: guest_packages.Parts, stack: contextlib.ExitStack) -> None:
        """Start QEMU and a virtiofsd for each share; the stack ends and removes everything."""
        self._folder = Path(tempfile.mkdtemp(prefix="katacsi-guest-"))
        stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        group = Group(self._folder)
        stack.callback(group.end)
        self._monitor, self._port, self._own_port = Monitor(), Port(), Port()
        self._disks = Disks(self._monitor, self._own_port, iothread=self._hardware.iothread)
        wires = {"monitor": self._monitor.wire, "run": self._port.wire, "machine": self._own_port.wire}
        for wire in wires.values():
            stack.callback(wire.close)

        def start(command: list[str], *descriptors: int) -> subprocess.Popen[bytes]:
            process = group.start(command, parts.environment, descriptors)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        self._daemons = []
        for tag, share in self._hardware.shares.items():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self._folder / f"{tag}.socket"))
                listener.listen(1)
                number = listener.fileno()
                self._daemons.append(start(share.command(parts.virtiofsd, number), number))
        self._started = time.monotonic()
        descriptors = {name: wire.theirs.fileno() for name, wire in wires.items()}
        command = self._hardware.command(parts, self._folder, descriptors)
        self._qemu = start(command, *descriptors.values())
        for wire in wires.values():
            wire.theirs.close()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn the end of a wire into Died, with what the guest said last."""
        try:
            yield
        except EOFError as error:
            raise Died(f"the guest is gone:\n{self.last_words()}") from error
        except TimeoutError as error:
            raise TimeoutError(f"{error}\nThe end of the guest's console:\n{self.last_words()}") from error
