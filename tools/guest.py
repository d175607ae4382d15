#!/usr/bin/env python3
"""A guest like Kata's: a virtual machine of QEMU into which block devices are hot-plugged.

    python tools/guest.py run -- 'uname -a; cat /proc/filesystems'
    python tools/guest.py run --plug /dev/loop0 --share /srv -- 'mount /dev/vda /mnt; ls /mnt /run/shares/srv'
    python tools/guest.py prepare    # fetch what it needs, and print where that is

In a test, by tools/guest_machine.py:

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
import signal
import sys
from pathlib import Path

import guest_packages
from guest_machine import Died, Guest
from guest_packages import Unavailable
from guest_qemu import PORTS, Share
from guest_wires import Answer, MonitorError

__all__ = ["PORTS", "Answer", "Died", "Guest", "MonitorError", "Share", "Unavailable"]

TIME_WAS_UP = 124  # as timeout(1) has it
MACHINE_FAILED = 125


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
