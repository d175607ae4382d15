#!/usr/bin/env python3
"""Ask Kata's own code what it makes of direct-volume records, and keep its answers as the tests' vectors.

    KATACSI_SOURCE_KATA=<clone of kata-containers> python tools/kata_vectors.py           # write the vectors
    KATACSI_SOURCE_KATA=<clone of kata-containers> python tools/kata_vectors.py --check   # compare them

Neither Go's module proxy nor crates.io serves Kata's code, so the answers of one pinned commit are kept in
tests/vectors/kata-direct-volume.json: of the Go package src/runtime/pkg/direct-volume and of the crate
src/libs/kata-types. Small programs of ours (tools/kata_vector_programs/) are built against both, below the
cache, and run where Kata's own root of records is a private, empty folder. Needs root, git, Go and cargo.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kata_vector_cases as cases

HERE = Path(__file__).resolve().parent
OURS = HERE / "kata_vector_programs"
VECTORS = HERE.parent / "tests" / "vectors" / "kata-direct-volume.json"
CACHE = Path(os.environ.get("KATACSI_CACHE") or Path.home() / ".cache" / "katacsi")
VERSION, COMMIT = "4.1.0", "7c6ba40c54ea29b459b4997cff948caaba4e658b"
#: Kata's own, as both packages have it.
ROOT = Path("/run/kata-containers/shared/direct-volumes")
PARTS = ("Cargo.toml", "Cargo.lock", "src/libs", "src/runtime/pkg/direct-volume")
GO_MODULE = "module github.com/kata-containers/kata-containers/src/runtime\n\ngo 1.21\n"


class Unavailable(Exception):
    """Kata's code cannot be had or built here; the message says why."""


def programs() -> dict[str, Path]:
    """Build the programs against the pinned commit, once; return them by language.

    Raises:
        Unavailable: no source is named, it lacks the commit, or a program does not compile.
    """
    home = CACHE / "kata-vectors" / COMMIT[:12]
    built = {"go": home / "go-program", "rust": home / "rust-program"}
    newest = max(path.stat().st_mtime for path in OURS.rglob("*") if path.is_file())
    if not all(program.exists() and program.stat().st_mtime > newest for program in built.values()):
        source = os.environ.get("KATACSI_SOURCE_KATA")
        if not source:
            raise Unavailable("KATACSI_SOURCE_KATA names no clone of kata-containers")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        archive = _run(["git", "-C", source, "archive", COMMIT, *PARTS]).stdout
        _run(["tar", "-x", "-C", str(home)], data=archive)
        _build_go(home, built["go"])
        _build_rust(home, built["rust"])
    return built


def _build_go(home: Path, program: Path) -> None:
    module = home / "src" / "runtime"
    (module / "go.mod").write_text(GO_MODULE)
    shutil.copytree(OURS / "go", module / "vectors")
    _run(["go", "build", "-o", str(program), "./vectors"], folder=module)


def _build_rust(home: Path, program: Path) -> None:
    shutil.copytree(OURS / "rust", home / "vectors")
    manifest = home / "Cargo.toml"
    members = 'members = ["vectors", "src/libs/kata-types", "src/libs/safe-path", "src/libs/test-utils"]'
    text = re.sub(r"members = \[.*?\n\]", members, manifest.read_text(), count=1, flags=re.DOTALL)
    # Optional, not built, and pinned to a git repository; still it must be found somewhere.
    manifest.write_text(re.sub(r"^devicemapper = .*$", 'devicemapper = "*"', text, flags=re.MULTILINE))
    _run(["cargo", "build", "--quiet", "-p", "kata-vectors"], folder=home)
    shutil.move(home / "target" / "debug" / "kata-vectors", program)
    shutil.rmtree(home / "target")


def _run(
    argv: list[str], *, folder: Path | None = None, data: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    try:
        answer = subprocess.run(argv, cwd=folder, input=data, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"{argv[0]} is not installed") from error
    if answer.returncode:
        raise Unavailable(f"{' '.join(argv[:4])}: {answer.stderr.decode(errors='replace')[-2000:]}")
    return answer


# -- in the private place ------------------------------------------------------------------------------


def in_private(argv: list[str]) -> bytes:
    """Run a command where /run is empty and its own; return its output."""
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    return _run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *argv]).stdout


class Asked:
    """One of the programs, running."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        """Put a question and give the answer, without the words of an error."""
        self._stdin.write(json.dumps(question) + "\n")
        self._stdin.flush()
        answer = json.loads(self._stdout.readline())
        answer.pop("error", None)
        if record := answer.get("record"):
            # Go leaves empty ones out of what it prints, and gives null for null.
            answer["record"] = {key: value for key, value in record.items() if value not in (None, [], {})}
        return dict(answer)

    def end(self) -> None:
        """Let the program end."""
        self._stdin.close()
        self._process.wait()


def clear() -> None:
    """Have no record at all."""
    shutil.rmtree(ROOT, ignore_errors=True)


def tree() -> dict[str, str]:
    """Give what is below the root: mode and, of a file, its text."""
    found = {}
    for path in sorted(ROOT.rglob("*")):
        mode = f"{path.stat().st_mode & 0o777:04o}"
        found[str(path.relative_to(ROOT))] = f"{mode} {path.read_text()}" if path.is_file() else mode
    return found


def answers(go: str, rust: str) -> dict[str, Any]:
    """Ask everything; return the vectors."""
    both = {"go": Asked(go), "rust": Asked(rust)}
    try:
        return {
            "kata": {"version": VERSION, "commit": COMMIT},
            "names": [_name(both["go"], path) for path in cases.PATHS],
            "written": [_written(both["go"], record) for record in cases.RECORDS],
            "read": [_read(both, text) for text in cases.TEXTS],
            "stories": [_story(both, name, steps) for name, steps in cases.STORIES.items()],
        }
    finally:
        for program in both.values():
            program.end()


def _name(go: Asked, path: str) -> dict[str, Any]:
    clear()
    written = go({"do": "write", "path": path, "record": {"volume-type": "directvol"}})
    return {"path": path, "entry": next(iter(ROOT.iterdir())).name if written["ok"] else None}


def _written(go: Asked, record: dict[str, Any]) -> dict[str, Any]:
    clear()
    go({"do": "write", "path": "/v", "record": record})
    return {"record": record, "text": tree()["L3Y=/mountInfo.json"].removeprefix("0600 ")}


def _read(both: dict[str, Asked], text: bytes) -> dict[str, Any]:
    clear()
    entry = ROOT / "L3Y="
    entry.mkdir(parents=True)
    (entry / "mountInfo.json").write_bytes(text)
    made = {name: program({"do": "read", "path": "/v"}).get("record") for name, program in both.items()}
    try:
        return {"text": text.decode(), **made}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(text).decode(), **made}


def _story(both: dict[str, Asked], name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "steps": steps}
    for language, program in both.items():
        if language == "rust" and any(step["do"] in cases.GO_ONLY for step in steps):
            continue
        clear()
        results = []
        for step in steps:
            text = {"text": base64.b64encode(step["text"].encode()).decode()} if "text" in step else {}
            results.append(program({**step, **text}))
        told[language] = {"answers": results, "tree": tree() if ROOT.exists() else None}
    return told


def main() -> int:
    """Write or compare the vectors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare; exit 1 when they differ")
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ask:
        os.umask(0o022)
        print(json.dumps(answers(*asked.ask)))
        return 0
    try:
        built = programs()
        output = in_private([sys.executable, __file__, "--ask", str(built["go"]), str(built["rust"])])
    except Unavailable as error:
        print(f"kata_vectors: {error}", file=sys.stderr)
        return 2
    text = json.dumps(json.loads(output), indent=1, ensure_ascii=True) + "\n"
    if asked.check:
        present = ""
        with contextlib.suppress(FileNotFoundError):
            present = VECTORS.read_text()
        print("as they are" if present == text else f"{VECTORS.name}: differs from what Kata does")
        return int(present != text)
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(text)
    print(f"{VECTORS}: {len(text)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
