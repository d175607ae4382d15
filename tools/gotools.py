#!/usr/bin/env python3
"""Build the Go programs that the tests measure katacsi with, and print where they are.

    python tools/gotools.py csi-sanity        # the path of the program, built on first use
    python tools/gotools.py --list            # what there is, and which of it is built

A program is built once from its pinned Go module into `<cache>/gotools/<name>-<version>/<name>`; the cache is
`$KATACSI_CACHE`, by default `~/.cache/katacsi`. Standard library only: this runs before there is a venv.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("KATACSI_CACHE") or Path.home() / ".cache" / "katacsi")


class Unavailable(Exception):
    """A program cannot be had here; the message says why and what to do."""


@dataclass(frozen=True)
class GoTool:
    """A program, pinned: its Go module, its version, and where `main` is."""

    name: str
    module: str
    version: str
    package: str
    go: tuple[int, int]
    """The Go release the module asks for."""
    version_variable: str
    """The variable that `--version` prints, stamped at link time."""

    @property
    def path(self) -> Path:
        """Where the built program is, or will be."""
        return CACHE / "gotools" / f"{self.name}-{self.version}" / self.name


TOOLS = {
    tool.name: tool
    for tool in (
        GoTool(
            name="csi-sanity",
            module="github.com/kubernetes-csi/csi-test/v5",
            version="v5.6.0",  # the first on CSI 1.13; v5.5 refuses capabilities newer than 1.12
            package="./cmd/csi-sanity",
            go=(1, 25),
            version_variable="main.VERSION",
        ),
    )
}


def tool_path(name: str) -> Path:
    """Return the path of a program, building it on first use.

    Raises:
        Unavailable: no Go, no module, or it does not compile.
    """
    tool = TOOLS[name]
    if tool.path.exists():
        return tool.path
    with _alone(tool.path.parent):
        if not tool.path.exists():  # the process that held the lock may have built it
            _build(tool)
    return tool.path


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep two processes from building the same program at once; the lock goes with the process."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(home.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(tool: GoTool) -> None:
    """Build in a scratch folder beside the final one, then rename: a program is there whole or not at all."""
    started = time.monotonic()
    go = find_go(tool.go)
    home = tool.path.parent
    with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=home.parent) as scratch:
        # In the module's own folder: `go install module@version` refuses modules with replace lines.
        source = _module(go, tool, Path(scratch))
        built = Path(scratch) / "out" / tool.name
        _run(
            [
                go,
                "build",
                "-trimpath",
                "-buildvcs=false",
                f"-ldflags=-s -w -X '{tool.version_variable}={tool.version}'",
                "-o",
                str(built),
                tool.package,
            ],
            cwd=source,
            what=f"building {tool.name}",
        )
        shutil.rmtree(home, ignore_errors=True)
        built.parent.rename(home)
    print(f"gotools: built {tool.name} {tool.version} in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _module(go: str, tool: GoTool, scratch: Path) -> Path:
    """Download the pinned module and return a writable copy of it (the module cache is read-only)."""
    answer = subprocess.run(
        [go, "mod", "download", "-json", f"{tool.module}@{tool.version}"],
        cwd=scratch,  # outside any module: a go.mod above would add its own requirements
        env=os.environ | go_variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        facts = json.loads(answer.stdout)
    except ValueError:
        facts = {"Error": answer.stderr.strip() or f"exit code {answer.returncode}"}
    if "Dir" not in facts:
        raise Unavailable(
            f"{tool.module}@{tool.version} cannot be downloaded; see that the Go module proxy (GOPROXY) "
            f"can be reached, and run it again. Go said: {facts.get('Error', 'nothing')}"
        )
    copy = scratch / "module"
    shutil.copytree(facts["Dir"], copy, copy_function=shutil.copyfile)
    for folder in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return copy


def find_go(least: tuple[int, int]) -> str:
    """Return a Go that is new enough: the one on PATH, else the pinned one.

    Raises:
        Unavailable: neither can be had.
    """
    found = shutil.which("go")
    if found:
        said = subprocess.run(
            [found, "env", "GOVERSION"],
            env=os.environ | go_variables(),
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        release = re.match(r"go(\d+)\.(\d+)", said)
        if release and (int(release[1]), int(release[2])) >= least:
            return found
    answer = subprocess.run(
        [TREE / "tools" / "bootstrap.sh", "go"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Unavailable(f"no Go {least[0]}.{least[1]} or newer on PATH, and it could not be installed")
    return answer.stdout.strip()


def go_variables() -> dict[str, str]:
    """Return the variables with which Go builds a static program and never fetches another Go by itself."""
    return {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}


def _run(argv: list[str], cwd: Path, what: str) -> None:
    """Run a Go command; its output is shown only when it fails."""
    answer = subprocess.run(
        argv,
        cwd=cwd,
        env=os.environ | go_variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise Unavailable(f"{what} failed:\n{answer.stdout}")


def main() -> int:
    """Print the path of a program; exit code 1 and one line of reason when it cannot be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=TOOLS, help="the program")
    parser.add_argument("--list", action="store_true", help="list the programs and their state")
    arguments = parser.parse_args()
    if arguments.list:
        for tool in TOOLS.values():
            state = tool.path if tool.path.exists() else "not built"
            print(f"{tool.name:16} {tool.version:10} {state}")
        return 0
    if not arguments.name:
        parser.error("name a program, or say --list")
    try:
        print(tool_path(arguments.name))
    except Unavailable as error:
        print(f"gotools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
