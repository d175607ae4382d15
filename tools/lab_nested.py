#!/usr/bin/env python3
"""The whole chain on a real LV: the driver with LVM, a record, a KVM guest that takes the device, a growth.

    make lab-nested

The machine that the driver runs on is the lab's emulated one, so that it has device-mapper and KVM of its
own; in it runs a second QEMU, with KVM. It has one CPU: with two, QEMU's emulation of nested virtualisation
hangs now and then. That is also why it is tried twice.

Not part of `make test`. The exit code is that of the chain; 124 when the time was up twice.
"""

from __future__ import annotations

import argparse
import compileall
import shlex
import sys
import time
from pathlib import Path

import guest_packages
from lab import MACHINE_FAILED, SHOWN, TIME_WAS_UP
from lab_machine import Machine
from lab_packages import Unavailable
from lab_qemu import Emulated

TREE = Path(__file__).resolve().parent.parent
CHAIN = TREE / "tools" / "lab_nested_chain.py"
DISK_BYTES = 2 << 30
TRIES = 2


def _say(text: str) -> None:
    print(f"nested: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Go through the chain, a second time when the machine hung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--timeout", type=float, default=240, metavar="S", help="of each try (240)")
    asked = parser.parse_args()
    # In the machine a compiler of Python is what takes longest.
    compileall.compile_dir(TREE / "src" / "katacsi", quiet=1)
    compileall.compile_dir(TREE / "tools", quiet=1, maxlevels=0)
    chain = f"modprobe kvm_amd && exec {shlex.join([sys.executable, str(CHAIN)])} $LAB_DISKS"
    machine = Machine(
        command=["bash", "-c", chain],
        disks=(DISK_BYTES,),
        environment={"PYTHONUNBUFFERED": "1"},
        udev=False,
        memory=3 << 30,
        timeout_s=asked.timeout,
    )
    for number in range(TRIES):
        started = time.monotonic()
        try:
            guest_packages.prepare()  # what the inner guest boots, for the outer machine to find
            result = machine.boot(Emulated(cpu="EPYC,+svm,+npt"))
        except Unavailable as error:
            _say(str(error))
            return MACHINE_FAILED
        seconds = time.monotonic() - started
        if result.status is not None and result.status != TIME_WAS_UP:
            _say(f"{'done' if result.status == 0 else 'failed'} after {seconds:.0f} s")
            return result.status
        _say(f"try {number + 1} of {TRIES} ended after {seconds:.0f} s:\n{result.log[-SHOWN:].rstrip()}")
        if result.status is None and result.in_time:
            return MACHINE_FAILED
    return TIME_WAS_UP


if __name__ == "__main__":
    sys.exit(main())
