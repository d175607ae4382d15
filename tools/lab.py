#!/usr/bin/env python3
"""Run a command as root on a machine of its own, with device-mapper and every capability.

    python tools/lab.py run -- .venv/bin/python -m pytest tests/lab/inside
    python tools/lab.py run --disk 1G --disk 1G -- bash -c 'vgcreate vg $LAB_DISKS && vgs'
    python tools/lab.py prepare      # fetch what it needs, and print where that is
    python tools/lab.py engine       # print what boots it here, and why

The machine is user-mode Linux: a kernel that is a process of this machine, needs no KVM and is up in seconds.
Its root is this machine's: every path is the same and readable, and what it writes stays in its memory. Only
a folder given with `--share` is written through. Its kernel, and the tools that this machine lacks, come from
tools/lab_packages.py.

The exit code is the command's; 124 when the time was up, 125 when the machine failed and its log is printed.
Standard library only.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path

import lab_engines
import lab_packages
from lab_machine import Machine
from lab_packages import Unavailable

TIME_WAS_UP = 124  # as timeout(1) has it
MACHINE_FAILED = 125
#: Of a failed machine's log.
SHOWN = 4000


def size_bytes(text: str) -> int:
    """Return the bytes of 512M, 1G or 2T."""
    if not (match := re.fullmatch(r"(\d+)([MGT])", text)):
        raise argparse.ArgumentTypeError(f"{text} is no size: say 512M or 1G")
    return int(match[1]) << {"M": 20, "G": 30, "T": 40}[match[2]]


def disk(text: str) -> int | Path:
    """Return the file that is named, or the size of an empty disk."""
    return Path(text) if "/" in text and Path(text).is_file() else size_bytes(text)


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE")
    return name, value


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main() -> int:
    """Run a command in the lab; exit code 125 and one line of reason when there is no lab here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="fetch what the lab needs, and print where that is")
    verbs.add_parser("engine", help="print what boots its machines here, and why")
    run = verbs.add_parser("run", help="run a command in it: run [option …] -- command …")
    run.add_argument("--disk", type=disk, action="append", default=[], help="an empty disk: 1G; or a file")
    run.add_argument("--share", type=Path, action="append", default=[], help="a folder it may write to")
    run.add_argument("--env", type=_assignment, action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--no-udev", dest="udev", action="store_false", help="do not run udev in it")
    run.add_argument("--memory", type=size_bytes, default="2G", help="2G, unless said otherwise")
    run.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds until it is ended")
    run.add_argument("command", nargs="+")
    asked = parser.parse_args()
    # So that the machine is ended when we are.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        if asked.verb == "prepare":
            print(lab_packages.guest_tree())
            return 0
        choice = lab_engines.choose()
        if asked.verb == "engine":
            print(f"{choice.engine.name}: {choice.why}")
            return 0
        machine = Machine(
            command=asked.command,
            disks=tuple(asked.disk),
            shared=tuple(asked.share),
            environment=dict(asked.env),
            udev=asked.udev,
            memory=asked.memory,
            timeout_s=asked.timeout,
        )
        result = machine.boot(choice.engine)
    except Unavailable as error:
        print(f"lab: {error}", file=sys.stderr)
        return MACHINE_FAILED
    if result.status is not None:
        return result.status
    fault = "failed" if result.in_time else f"was ended after {asked.timeout:.0f} s"
    log = result.log[-SHOWN:].rstrip()
    print(f"lab: the machine {fault}; the end of its log:\n{log}", file=sys.stderr)
    return MACHINE_FAILED if result.in_time else TIME_WAS_UP


if __name__ == "__main__":
    sys.exit(main())
