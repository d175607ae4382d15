"""Processes that end with the one that starts them, in whatever way that ends: it may be killed.

Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Group:
    """A process group whose keeper kills it, and removes a folder, when we die; `end` kills it before."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        # Its input ends with us.
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", 'cat >/dev/null; rm -rf "$0"; kill -KILL 0', folder],
            stdin=subprocess.PIPE,
            process_group=0,
        )

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Start a program that has these descriptors of ours; what it says goes to `log` in the folder."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                process_group=self._keeper.pid,
            )

    def end(self) -> None:
        """Kill all of it. Its programs are left to be waited for, the folder to be removed."""
        # Not reaped yet, the keeper still owns the number of the group.
        os.killpg(self._keeper.pid, signal.SIGKILL)
        self._keeper.wait()
        if self._keeper.stdin:
            self._keeper.stdin.close()
