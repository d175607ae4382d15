#!/usr/bin/env python3
"""Ask Kata's own code what it makes of direct-volume records, and keep its answers as the tests' vectors.

    KATACSI_SOURCE_KATA=<clone of kata-containers> python tools/kata_vectors.py           # write the vectors
    KATACSI_SOURCE_KATA=<clone of kata-containers> python tools/kata_vectors.py --check   # compare them

No registry serves Kata's code, so the answers of one pinned commit are kept in
tests/vectors/kata-direct-volume.json: of the Go package src/runtime/pkg/direct-volume and of the crate
src/libs/kata-types. Small programs of ours (tools/kata_vector_programs/) are built against both, and run
where Kata's own root of records is a private, empty folder. Needs root, git, Go and cargo.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kata_vector_cases as cases
from kata_source import COMMIT, ROOT, VERSION, Unavailable, in_private, programs

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "kata-direct-volume.json"


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
            "names": [_name(both, path) for path in cases.PATHS],
            "written": [_written(both["go"], record) for record in cases.RECORDS],
            "read": [_read(both, text) for text in cases.TEXTS],
            "stories": [_story(both, name, steps) for name, steps in cases.STORIES.items()],
        }
    finally:
        for program in both.values():
            program.end()


def _name(both: dict[str, Asked], path: str) -> dict[str, Any]:
    named: dict[str, Any] = {"path": path}
    for language, program in both.items():
        clear()
        text = base64.b64encode(b'{"volume-type":"directvol","device":"/d","fstype":"ext4"}').decode()
        added = program({"do": "add", "path": path, "text": text})
        named[language] = next(iter(ROOT.iterdir())).name if added["ok"] else None
    return named


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
