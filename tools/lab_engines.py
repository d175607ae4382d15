"""Which engine boots the lab's machines here: user-mode Linux, or an emulated machine where that cannot run.

KATACSI_LAB_ENGINE (`uml` or `qemu`) says which one is wanted. An engine is tried, not guessed: a machine runs
`true`. What was good is kept in the cache for as long as this machine is up.

Standard library only.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lab_uml_registers
from debian_packages import alone, digest
from lab_machine import Machine
from lab_packages import TOOLS, Unavailable
from lab_qemu import Emulated
from lab_uml import UserModeLinux

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab_machine import Engine

VARIABLE = "KATACSI_LAB_ENGINE"
#: A probe boots in two seconds, emulated in eight; on a busy machine in many more.
PROBE_TIMEOUT_S = 90
#: The last word of a kernel that tools/lab_uml_registers.c helps.
TOO_FEW_REGISTERS = "ptrace set fp regs failed"


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is this one."""

    engine: Engine
    why: str


def choose() -> Choice:
    """Return the engine for the machines of this machine.

    Raises:
        Unavailable: none boots here, or not the one that is wanted; the message says why.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        if wanted not in ENGINES:
            raise Unavailable(f"{VARIABLE}={wanted} is no engine: there are {' and '.join(ENGINES)}")
        choice = ENGINES[wanted]()
        return Choice(choice.engine, f"{VARIABLE} says so; {choice.why}")
    faults = []
    for name, try_it in ENGINES.items():
        try:
            choice = try_it()
        except Unavailable as error:
            faults.append(f"{name}: {error}")
        else:
            return Choice(choice.engine, "; ".join([choice.why, *faults]))
    raise Unavailable(f"no engine boots here: {'; '.join(faults)}")


def _user_mode_linux() -> Choice:
    """Return user-mode Linux, in the first way in which it boots.

    Raises:
        Unavailable: in none.
    """
    with alone(_folder() / "uml.lock"):
        for engine in (UserModeLinux(), UserModeLinux(lab_uml_registers.place())):
            if _kept(engine).exists():
                break
        else:
            engine = _working_way()
            _keep(engine)
    if not engine.preloaded:
        return Choice(engine, "it boots here as it is")
    return Choice(
        UserModeLinux(lab_uml_registers.library()), f"with {lab_uml_registers.SOURCE.name} preloaded it boots"
    )


def _working_way() -> UserModeLinux:
    fault = _fault(plain := UserModeLinux())
    if not fault:
        return plain
    print(f"lab: user-mode Linux does not boot as it is: {fault}", file=sys.stderr)
    if TOO_FEW_REGISTERS in fault:
        fault = _fault(preloaded := UserModeLinux(lab_uml_registers.library()))
        if not fault:
            return preloaded
    raise Unavailable(f"user-mode Linux does not boot here: {fault}")


def _emulated() -> Choice:
    """Return the emulated machine.

    Raises:
        Unavailable: it does not boot.
    """
    engine = Emulated()
    with alone(_folder() / "qemu.lock"):
        if not _kept(engine).exists():
            if fault := _fault(engine):
                raise Unavailable(f"an emulated machine does not boot here: {fault}")
            _keep(engine)
    return Choice(engine, "it boots here")


#: In the order in which they are tried.
ENGINES: dict[str, Callable[[], Choice]] = {"uml": _user_mode_linux, "qemu": _emulated}


def _folder() -> Path:
    TOOLS.folder.mkdir(parents=True, exist_ok=True)
    return TOOLS.folder


def _kept(engine: Engine) -> Path:
    """Return the file that remembers that an engine boots on this machine, as it is since it was booted."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    # A container of the same machine may forbid what the engine needs.
    container = Path("/proc/self/ns/pid").readlink()
    made_of = f"{boot} {container} {os.geteuid()} {engine} {engine.modules()}"
    return _folder() / f"boots-{engine.name}-{digest(made_of.encode())}"


def _keep(engine: Engine) -> None:
    for old in _folder().glob(f"boots-{engine.name}-*"):
        old.unlink()
    _kept(engine).touch()


def _fault(engine: Engine) -> str:
    """Boot a machine that does nothing; return why it failed, empty when it did not."""
    result = Machine(["true"], udev=False, memory=512 << 20, timeout_s=PROBE_TIMEOUT_S).boot(engine)
    if result.status == 0:
        return ""
    if not result.in_time:
        return f"a machine that runs `true` was not off after {PROBE_TIMEOUT_S} s"
    # The cause stands before the panic, or in it.
    panic = re.search(r"^(.*)\n(Kernel panic.*)$", result.log, re.MULTILINE)
    return "; ".join(panic.groups()) if panic else result.log.strip().rpartition("\n")[2]
