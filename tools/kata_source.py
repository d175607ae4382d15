"""Programs made of Kata's own code: two of ours around its packages, and `kata-runtime` itself.

Neither Go's module proxy nor crates.io serves Kata's code. `KATACSI_SOURCE_KATA` names a clone of it (a work
tree or a git directory) that has the pinned commit; what Kata needs itself comes from the registries. Each
program is built once, below `<cache>/kata-source-<commit>`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import gotools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VERSION, COMMIT = "4.1.0", "7c6ba40c54ea29b459b4997cff948caaba4e658b"
VARIABLE = "KATACSI_SOURCE_KATA"
#: Kata's own root of records, as its Go package and its Rust crate have it.
ROOT = Path("/run/kata-containers/shared/direct-volumes")

OURS = Path(__file__).resolve().parent / "kata_vector_programs"
HOME = gotools.CACHE / f"kata-source-{COMMIT[:12]}"
#: The release of Go that Kata's runtime asks for.
GO = (1, 26)
#: Enough for one package that needs nothing but the standard library.
GO_MODULE = "module github.com/kata-containers/kata-containers/src/runtime\n\ngo 1.21\n"


class Unavailable(Exception):
    """Kata's code cannot be had or built here; the message says why."""


def programs() -> dict[str, Path]:
    """Give the programs that answer for Kata's packages, by language.

    Raises:
        Unavailable: no source is named, it lacks the commit, or a program does not compile.
    """
    return {
        "go": _built("vectors-go", _go, OURS / "go"),
        "rust": _built("vectors-rust", _rust, OURS / "rust"),
    }


def kata_runtime() -> Path:
    """Give Kata's command `kata-runtime`; the first time takes minutes. It raises as `programs` does."""
    return _built("kata-runtime", _kata_runtime)


def run(
    argv: list[str],
    *,
    folder: Path | None = None,
    data: bytes = b"",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Run a command, with more variables than there are, and give its output.

    Raises:
        Unavailable: it failed; the end of what it said is in the message.
    """
    try:
        answer = subprocess.run(
            argv, cwd=folder, input=data, capture_output=True, check=False, env={**os.environ, **variables}
        )
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is not installed") from error
    if answer.returncode:
        raise Unavailable(f"{' '.join(argv[:4])}: {answer.stderr.decode(errors='replace')[-2000:]}")
    return answer.stdout


def in_private(argv: list[str], variables: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Run a command where /run is empty and its own, so that Kata's root is too; give its output.

    Raises:
        Unavailable: as `run`.
    """
    script = 'mount -t tmpfs -o mode=0755 tmpfs /run && exec "$@"'
    return run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv],
        variables=variables,
    )


# -- building ------------------------------------------------------------------------------------------


def _built(name: str, build: Callable[[Path, Path], None], ours: Path | None = None) -> Path:
    """Give a program, building it in a scratch folder when it is missing or older than our part of it."""
    program = HOME / name
    newest = max((path.stat().st_mtime for path in ours.rglob("*")), default=0.0) if ours else 0.0
    HOME.mkdir(parents=True, exist_ok=True)
    with _alone(HOME / f"{name}.lock"):
        if not program.exists() or program.stat().st_mtime < newest:
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=HOME) as scratch:
                made = Path(scratch) / "made"
                build(Path(scratch), made)
                made.rename(program)
    return program


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _unpack(folder: Path, *parts: str) -> None:
    source = os.environ.get(VARIABLE)
    if not source:
        raise Unavailable(f"{VARIABLE} names no clone of kata-containers")
    archive = run(["git", "-C", source, "archive", COMMIT, *parts])
    run(["tar", "-x", "-C", str(folder)], data=archive)


def _go_build(module: Path, package: str, program: Path) -> None:
    try:
        go = gotools.find_go(GO)
    except gotools.Unavailable as error:
        raise Unavailable(str(error)) from error
    argv = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(program), package]
    run(argv, folder=module, variables=gotools.go_variables())


def _go(scratch: Path, program: Path) -> None:
    _unpack(scratch, "src/runtime/pkg/direct-volume")
    module = scratch / "src" / "runtime"
    (module / "go.mod").write_text(GO_MODULE)
    shutil.copytree(OURS / "go", module / "vectors")
    _go_build(module, "./vectors", program)


def _kata_runtime(scratch: Path, program: Path) -> None:
    _unpack(scratch, "src/runtime")
    module = scratch / "src" / "runtime"
    # Kata's Makefile fills in names and default paths; all of them are texts, and none matters here.
    template = module / "pkg" / "katautils" / "config-settings.go.in"
    template.with_suffix("").write_text(re.sub(r"@[A-Z_]+@", "", template.read_text()))
    _go_build(module, "./cmd/kata-runtime", program)


def _rust(scratch: Path, program: Path) -> None:
    _unpack(scratch, "Cargo.toml", "Cargo.lock", "src/libs")
    shutil.copytree(OURS / "rust", scratch / "vectors")
    manifest = scratch / "Cargo.toml"
    members = 'members = ["vectors", "src/libs/kata-types", "src/libs/safe-path", "src/libs/test-utils"]'
    text = re.sub(r"members = \[.*?\n\]", members, manifest.read_text(), count=1, flags=re.DOTALL)
    # Optional, not built, and pinned to a git repository; still it must be found somewhere.
    manifest.write_text(re.sub(r"^devicemapper = .*$", 'devicemapper = "*"', text, flags=re.MULTILINE))
    run(["cargo", "build", "--quiet", "-p", "kata-vectors"], folder=scratch)
    (scratch / "target" / "debug" / "kata-vectors").rename(program)
