"""What is preloaded into user-mode Linux where it dies without: tools/lab_uml_registers.c, compiled.

    <cache>/uml/registers-<digest of the source>.so

Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from debian_packages import Unavailable, alone, digest
from lab_packages import KERNEL

SOURCE = Path(__file__).resolve().parent / "lab_uml_registers.c"
BOOTSTRAP = SOURCE.with_name("bootstrap.sh")


def place() -> Path:
    """Return where the library is, once it is made."""
    return KERNEL.folder / f"registers-{digest(SOURCE.read_bytes())}.so"


def library() -> Path:
    """Return the compiled library, made on first use.

    Raises:
        Unavailable: there is no C compiler and only root could install one, or it fails.
    """
    made = place()
    KERNEL.folder.mkdir(parents=True, exist_ok=True)
    with alone(KERNEL.folder / "registers.lock"):
        if not made.exists():
            compiler = _said("a C compiler cannot be had", str(BOOTSTRAP), "compiler")
            with tempfile.TemporaryDirectory(prefix=".registers-", dir=KERNEL.folder) as scratch:
                fresh = Path(scratch) / "library"
                options = ("-O2", "-shared", "-fPIC", "-o", str(fresh), str(SOURCE), "-ldl")
                _said(f"{SOURCE.name} cannot be compiled", compiler, *options)
                fresh.rename(made)
            print(f"lab: compiled {SOURCE.name}, which user-mode Linux needs here", file=sys.stderr)
    return made


def _said(fault: str, *argv: str) -> str:
    """Return what a command prints.

    Raises:
        Unavailable: it fails; the message begins with the fault and ends with its last line.
    """
    answer = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if answer.returncode:
        last = answer.stderr.strip().splitlines()[-1:] or [f"exit code {answer.returncode}"]
        raise Unavailable(f"{fault}: {last[0]}")
    return answer.stdout.strip()
