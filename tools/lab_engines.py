"""What boots the lab's machines here: user-mode Linux, as it is or with a library preloaded.

Tried, not guessed: a machine runs `true`. What came of it is kept in the cache for as long as this machine is
up, unless it was bad.

Standard library only.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import lab_packages
import lab_uml_registers
from debian_packages import alone, digest
from lab_machine import Machine
from lab_packages import PACKAGES, Unavailable
from lab_uml import UserModeLinux

#: A probe boots in two seconds; on a busy machine in ten.
PROBE_TIMEOUT_S = 60
#: The last word of a kernel that tools/lab_uml_registers.c helps.
TOO_FEW_REGISTERS = "ptrace set fp regs failed"
PLAIN, PRELOADED = "plain", "preloaded"


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is this one."""

    engine: UserModeLinux
    why: str


def choose() -> Choice:
    """Return the engine for the machines of this machine.

    Raises:
        Unavailable: none boots here; the message says why.
    """
    tree = lab_packages.guest_tree()
    with alone(PACKAGES.folder / "engine.lock"):
        known = _kept(tree)
        if known.exists():
            return _choice(known.read_text("utf-8"))
        way = _working_way()
        for old in PACKAGES.folder.glob("engine-*"):
            old.unlink()
        known.write_text(way, "utf-8")
        return _choice(way)


def _working_way() -> str:
    """Return the first way in which a machine boots.

    Raises:
        Unavailable: in none.
    """
    fault = _fault(_choice(PLAIN).engine)
    if not fault:
        return PLAIN
    print(f"lab: user-mode Linux does not boot as it is: {fault}", file=sys.stderr)
    if TOO_FEW_REGISTERS in fault:
        fault = _fault(_choice(PRELOADED).engine)
        if not fault:
            return PRELOADED
    raise Unavailable(f"user-mode Linux does not boot here: {fault}")


def _kept(tree: Path) -> Path:
    """Return the file that remembers the answer, for this machine as it is since it was booted."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    # A container of the same machine may forbid what user-mode Linux needs.
    container = Path("/proc/self/ns/pid").readlink()
    return PACKAGES.folder / f"engine-{digest(f'{boot} {container} {os.geteuid()} {tree.name}'.encode())}"


def _choice(way: str) -> Choice:
    """Return the engine that boots in one of two ways."""
    if way == PLAIN:
        return Choice(UserModeLinux(), "it boots here as it is")
    library = lab_uml_registers.library()
    return Choice(UserModeLinux(library), f"it boots here with {lab_uml_registers.SOURCE.name} preloaded")


def _fault(engine: UserModeLinux) -> str:
    """Boot a machine that does nothing; return why it failed, empty when it did not."""
    result = Machine(["true"], udev=False, memory=256 << 20, timeout_s=PROBE_TIMEOUT_S).boot(engine)
    if result.status == 0:
        return ""
    if not result.in_time:
        return f"a machine that runs `true` was not off after {PROBE_TIMEOUT_S} s"
    before_the_end = re.search(r"^(.*)\nKernel panic", result.log, re.MULTILINE)
    return before_the_end[1] if before_the_end else result.log.strip().rpartition("\n")[2]
