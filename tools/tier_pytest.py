"""A tier's pytest: started, waited for, ended when its time is up, and counted.

Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tiers import TREE, Outcome, Tier, folders

if TYPE_CHECKING:
    from typing import IO

PYTHON = Path(sys.executable)  # not resolved: the link in .venv/bin is what makes it the venv's Python
#: For fixtures to unmount and detach what an ended run has left.
GRACE_S = 60


class Running:
    """A pytest in a process group of its own; what it prints goes to a file, if one is given."""

    def __init__(self, tier: Tier, options: list[str], output: IO[str] | None = None) -> None:
        self._tier = tier
        self._scratch = tempfile.TemporaryDirectory(prefix="katacsi-counts-")
        self._counts = Path(self._scratch.name) / "counts.json"
        self._started = time.time()
        argv = [str(PYTHON), "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_counts"]
        if tier.spread and not options:  # who has wishes wants few tests, or a debugger
            argv += ["--numprocesses", str(os.cpu_count() or 1), "--dist", "loadfile"]
        self._process = subprocess.Popen(
            [*argv, *map(str, folders(tier)), *options],
            cwd=TREE,
            env=os.environ
            | {
                "KATACSI_COUNTS": str(self._counts),
                "PYTHONPATH": str(TREE / "tools"),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def wait(self) -> Outcome:
        """Wait until it has ended, or end it when its time is up; return what came of it."""
        try:
            code: int | None = self._process.wait(max(self._started + self._tier.limit_s - time.time(), 0))
        except subprocess.TimeoutExpired:
            self.stop()
            code = None
        ended = time.time()
        try:
            # Written at its end, which may be long ago.
            ended = self._counts.stat().st_mtime
            outcome = Outcome(**json.loads(self._counts.read_text("utf-8")))
        except (OSError, ValueError):
            outcome = Outcome()
        self._scratch.cleanup()
        outcome.seconds = ended - self._started
        if code is None:
            outcome.failed += 1
            outcome.note = f"ended after {self._tier.limit_s} s"
        elif code not in (0, 5) and not outcome.failed:  # 5: pytest collected nothing
            outcome.failed += 1
            outcome.note = f"pytest ended with code {code}"
        if self._tier.root and os.geteuid() != 0:
            outcome.note = f"needs root: sudo make test TIER={self._tier.name}"
        return outcome

    def stop(self) -> None:
        """End it, so that what its tests have mounted and attached is undone."""
        # SIGINT first: that is what fixtures are torn down at.
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                try:
                    self._process.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    continue
