#!/usr/bin/env python3
"""A guest like Kata's: a virtual machine of QEMU into which block devices are hot-plugged.

    python tools/guest.py run -- 'uname -a; cat /proc/filesystems'
    python tools/guest.py run --plug /dev/loop0 --share /srv -- 'mount /dev/vda /mnt; ls /mnt /run/shares/srv'
    python tools/guest.py prepare    # fetch what it needs, and print where that is

In a test:

    with Guest(shares={"sandbox": Share(folder)}) as guest:
        node = guest.plug(Path("/dev/loop0"), "volume-1")
        assert guest.run(f"mount {node} /mnt").code == 0

It is emulated (TCG) and needs no KVM: its CPU is some 15 times slower than a real one; its hot-plug, its
virtio and its kernel are the real ones. Its root is an initrd of tools/guest_packages.py. No udev: a plugged
device is found by its serial in /sys/block.

The exit code of `run` is the command's; 124 when the time was up, 125 when the guest failed, with its log.
Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import guest_packages
from guest_packages import Unavailable
from guest_wires import Answer, Monitor, MonitorError, Port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Answer", "Died", "Guest", "MonitorError", "Share", "Unavailable"]

TIME_WAS_UP = 124  # as timeout(1) has it
MACHINE_FAILED = 125
#: How many devices can be plugged at a time: each has a PCIe port of its own.
PORTS = 12
BOOT_TIMEOUT_S = 120
#: Until the guest has seen a plugged, unplugged or resized device.
NOTICE_TIMEOUT_S = 60
#: VIRTIO_BLK_ID_BYTES: the guest sees no more of a serial.
SERIAL = re.compile(r"[A-Za-z0-9._-]{1,20}")
TAG = re.compile(r"[A-Za-z0-9._-]{1,35}")


class Died(Exception):
    """QEMU is gone, by itself or by `kill`; the message ends with the guest's console."""


@dataclass(frozen=True)
class Share:
    """A folder of the host that the guest sees by virtio-fs, with what is mounted below it, also later."""

    source: Path
    cache: str = "auto"
    """Of virtiofsd: auto, always, or none."""
    options: tuple[str, ...] = ()
    """More of virtiofsd's `-o`, as `allow_direct_io`."""
    announced: bool = True
    """Whether the guest is told which folders below it are mounts of their own, as Kata has it."""

    def command(self, program: Path, listener: int) -> list[str]:
        """Return virtiofsd's command line for a listening socket."""
        # chroot and not a mount namespace, which would not see what is mounted later. The announcing and the
        # one thread are Kata's own (DEFVIRTIOFSEXTRAARGS in its src/runtime/Makefile).
        options = [f"source={self.source}", f"cache={self.cache}", "sandbox=chroot"]
        if self.announced:
            options.append("announce_submounts")
        return [
            str(program),
            f"--fd={listener}",
            "--thread-pool-size=1",
            "-o",
            ",".join([*options, *self.options]),
        ]


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
    ) -> None:
        self._memory, self._cpus, self._iothread, self._fio = memory, cpus, iothread, fio
        self._cpu, self._accelerator, self._modules = cpu, accelerator, modules
        self._shares = dict(shares or {})
        for tag in self._shares:
            if not TAG.fullmatch(tag):
                raise ValueError(f"{tag} is no tag of a share: at most 35 letters, digits, dots and hyphens")
        self._plugged: dict[str, int] = {}
        self._lock = threading.Lock()
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
        port = self._take_port(serial)
        try:
            with self._watched():
                self._attach(device, serial, port, read_only=read_only)
        except BaseException:
            self._free_port(serial)
            raise
        return f"/dev/{self._wait_for_disk(serial)}"

    def unplug(self, serial: str) -> None:
        """Take a device away; afterwards nothing of the machine has it open."""
        if serial not in self._plugged:
            raise ValueError(
                f"no device {serial} is plugged; there are: {', '.join(self._plugged) or 'none'}"
            )
        with self._watched():
            self._monitor.call("device_del", id=f"disk-{serial}")
            self._monitor.wait_for("DEVICE_DELETED", f"disk-{serial}", NOTICE_TIMEOUT_S)
            self._monitor.call("blockdev-del", node_name=f"node-{serial}")
        self._free_port(serial)

    def resize(self, serial: str, size_bytes: int) -> None:
        """Tell the guest of a device's new size; return when it has it.

        The device of the host has to have that size already; a regular file is made so long.
        """
        with self._watched():
            self._monitor.call("block_resize", node_name=f"node-{serial}", size=size_bytes)
        self._wait_for_disk(serial, size_bytes)

    def kill(self) -> None:
        """Cut the power: what the guest has not flushed is lost. No process but ours is left."""
        for process in (self._qemu, *self._daemons):
            process.kill()
            process.wait()

    # --- how it is started and ended

    def _start(self, parts: guest_packages.Parts, stack: contextlib.ExitStack) -> None:
        """Start QEMU and a virtiofsd for each share; the stack ends and removes everything."""
        self._folder = Path(tempfile.mkdtemp(prefix="katacsi-guest-"))
        stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        keeper = _start_keeper(self._folder)
        stack.callback(_end_group, keeper)
        self._monitor, self._port, self._own_port = Monitor(), Port(), Port()
        wires = {"monitor": self._monitor.wire, "run": self._port.wire, "machine": self._own_port.wire}
        for wire in wires.values():
            stack.callback(wire.close)

        def start(command: list[str], *descriptors: int) -> subprocess.Popen[bytes]:
            with (self._folder / "log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    env=parts.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=descriptors,
                    process_group=keeper.pid,
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        self._daemons = []
        for tag, share in self._shares.items():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self._folder / f"{tag}.socket"))
                listener.listen(1)
                number = listener.fileno()
                self._daemons.append(start(share.command(parts.virtiofsd, number), number))
        self._started = time.monotonic()
        descriptors = {name: wire.theirs.fileno() for name, wire in wires.items()}
        self._qemu = start(self._command(parts, descriptors), *descriptors.values())
        for wire in wires.values():
            wire.theirs.close()

    def _command(self, parts: guest_packages.Parts, descriptors: dict[str, int]) -> list[str]:
        """Return QEMU's command line."""
        words = [str(parts.qemu)]
        words += f"""
            -nodefaults -no-user-config -display none -no-reboot
            -machine q35,memory-backend=memory,usb=off,vmport=off -accel {self._accelerator} -cpu {self._cpu}
            -smp {self._cpus} -m {self._memory >> 20}M
            -object memory-backend-memfd,id=memory,size={self._memory},share=on
            -device virtio-serial-pci
        """.split()
        for folder in parts.firmware:
            words += ["-L", str(folder)]
        words += ["-kernel", str(parts.kernel), "-initrd", str(parts.initrd)]
        words += ["-append", self._kernel_arguments(), "-serial", f"file:{self._folder}/console"]
        for name, descriptor in descriptors.items():
            words += ["-chardev", f"socket,id={name},fd={descriptor}"]
        words += ["-mon", "chardev=monitor,mode=control"]
        for name in ("run", "machine"):
            words += ["-device", f"virtserialport,chardev={name},name={name}"]
        for number in range(PORTS):
            words += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"]
        for tag in self._shares:
            words += ["-chardev", f"socket,id=share-{tag},path={self._folder}/{tag}.socket"]
            words += ["-device", f"vhost-user-fs-pci,queue-size=1024,chardev=share-{tag},tag={tag}"]
        if self._iothread:
            words += ["-object", "iothread,id=iothread0"]
        return words

    def _kernel_arguments(self) -> str:
        # panic=-1 with -no-reboot: a guest that cannot go on ends QEMU, and whoever waits for it is told.
        return (
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off audit=0 tsc=reliable random.trust_cpu=on"
            f" guest_shares={','.join(self._shares)}"
        )

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn the end of a wire into Died, with what the guest said last."""
        try:
            yield
        except EOFError as error:
            raise Died(f"the guest is gone:\n{self._last_words()}") from error
        except TimeoutError as error:
            raise TimeoutError(f"{error}\nThe end of the guest's console:\n{self._last_words()}") from error

    def _last_words(self) -> str:
        said = ""
        for name in ("log", "console"):
            with contextlib.suppress(OSError):
                said += (self._folder / name).read_text("utf-8", "replace")[-3000:]
        return said.strip() or "(it said nothing)"

    # --- devices

    def _take_port(self, serial: str) -> int:
        if not SERIAL.fullmatch(serial):
            raise ValueError(f"{serial} is no serial: at most 20 letters, digits, dots and hyphens")
        with self._lock:
            if serial in self._plugged:
                raise ValueError(f"a device {serial} is plugged already")
            free = set(range(PORTS)) - set(self._plugged.values())
            if not free:
                raise ValueError(f"all {PORTS} ports are taken: unplug one")
            self._plugged[serial] = min(free)
            return self._plugged[serial]

    def _free_port(self, serial: str) -> None:
        with self._lock:
            del self._plugged[serial]

    def _attach(self, device: Path, serial: str, port: int, *, read_only: bool) -> None:
        cache = {"direct": True, "no-flush": False}
        self._monitor.call(
            "blockdev-add",
            driver="raw",
            node_name=f"node-{serial}",
            read_only=read_only,
            cache=cache,
            file={
                "driver": "host_device" if device.is_block_device() else "file",
                "filename": str(device),
                "aio": "native",
                "cache": cache,
            },
        )
        try:
            self._monitor.call(
                "device_add",
                driver="virtio-blk-pci",
                id=f"disk-{serial}",
                drive=f"node-{serial}",
                serial=serial,
                bus=f"port{port}",
                share_rw=True,
                **({"iothread": "iothread0"} if self._iothread else {}),
            )
        except MonitorError:
            self._monitor.call("blockdev-del", node_name=f"node-{serial}")
            raise

    def _wait_for_disk(self, serial: str, size_bytes: int = 0) -> str:
        """Return the name of the disk with a serial once the guest has it, and in a size if one is given."""
        size = str(size_bytes // 512) if size_bytes else '"$(cat $disk/size)"'
        script = f"""
            while :; do
                for disk in /sys/block/*; do
                    [ -d "$disk" ] || continue  # the pattern itself: there is no disk yet
                    [ "$(cat $disk/serial 2>/dev/null)" = {serial} ] || continue
                    [ -b /dev/${{disk##*/}} ] && [ "$(cat $disk/size)" = {size} ] || continue
                    echo ${{disk##*/}}
                    exit
                done
                sleep 0.05
            done
        """
        with self._watched():
            return self._own_port.run(script, NOTICE_TIMEOUT_S).output.strip()


def _start_keeper(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process whose group the machine's processes join; it ends them when we die, in any way."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'cat >/dev/null; rm -rf "$0"; kill -KILL 0', folder],
        stdin=subprocess.PIPE,
        process_group=0,
    )


def _end_group(keeper: subprocess.Popen[bytes]) -> None:
    # Not reaped yet, it still owns the number of the group.
    os.killpg(keeper.pid, signal.SIGKILL)
    keeper.wait()
    if keeper.stdin:
        keeper.stdin.close()


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _run(asked: argparse.Namespace) -> int:
    """Boot, plug and run, as the command line says."""
    for path in (*asked.plug, *asked.share):
        if not path.exists():
            raise ValueError(f"{path} is not there")
    shares = {path.name: Share(path.resolve()) for path in asked.share}
    with Guest(memory=asked.memory << 20, cpus=asked.cpus, shares=shares, fio=asked.fio) as guest:
        print(f"guest: up in {guest.boot_seconds:.1f} s", file=sys.stderr)
        for number, device in enumerate(asked.plug):
            print(f"guest: {device} is {guest.plug(device, f'disk{number}')}", file=sys.stderr)
        answer = guest.run(" ".join(asked.command), timeout=asked.timeout)
    sys.stdout.write(answer.output)
    return answer.code


def main() -> int:
    """Run a command in a guest; exit code 125 and one line of reason when there is none here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="fetch what the guest needs, and print where that is")
    run = verbs.add_parser("run", help="run a command in it: run [option …] -- 'command'")
    run.add_argument(
        "--plug", type=Path, action="append", default=[], help="a block device or file: /dev/vda, …"
    )
    run.add_argument("--share", type=Path, action="append", default=[], help="a folder, at /run/shares/NAME")
    run.add_argument("--memory", type=int, default=512, metavar="MIB", help="512, unless said otherwise")
    run.add_argument("--cpus", type=int, default=1)
    run.add_argument("--fio", action="store_true", help="with fio, which makes the boot longer")
    run.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds until it is ended")
    run.add_argument("command", nargs="+")
    asked = parser.parse_args()
    # So that the machine is ended when we are.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        if asked.verb == "run":
            return _run(asked)
        parts = guest_packages.prepare()
        print(parts.tree, parts.initrd, sep="\n")
    except (Unavailable, Died, MonitorError, ValueError) as error:
        print(f"guest: {error}", file=sys.stderr)
        return MACHINE_FAILED
    except TimeoutError as error:
        print(f"guest: {error}", file=sys.stderr)
        return TIME_WAS_UP
    return 0


if __name__ == "__main__":
    sys.exit(main())
