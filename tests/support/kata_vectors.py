"""What Kata's own code answered (tests/vectors/kata-direct-volume.json); each case says why it is one."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "vectors" / "kata-direct-volume.json").read_text()
)
#: The sequences of calls that `kata-runtime direct-volume` can be asked for.
BY_COMMAND = [
    story for story in VECTORS["stories"] if all(step["do"] in ("add", "remove") for step in story["steps"])
]


def why(case: Mapping[str, Any]) -> str:
    """Name a case by its reason."""
    return str(case["why"])


def told(
    story: Mapping[str, Any], command: Sequence[str], root: Path, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Have a command do a story's steps; give what the vectors hold of it: the answers, and what is left."""
    answers = []
    for step in story["steps"]:
        options = ["--volume-path", step["path"]]
        if "text" in step:
            options += ["--mount-info", step["text"]]
        answer = subprocess.run(
            [*command, "direct-volume", step["do"], *options],
            env=environment,
            capture_output=True,
            check=False,
        )
        answers.append({"ok": answer.returncode == 0})
    return {"answers": answers, "tree": tree(root) if root.exists() else None}


def tree(root: Path) -> dict[str, str]:
    """Give what is below a root: the mode and, of a file, its text."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        found[str(path.relative_to(root))] = f"{mode} {path.read_text()}" if path.is_file() else mode
    return found
