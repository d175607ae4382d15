"""Records that Kata's own command changes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from katacsi.directvolume.handover import present_bytes, refuse_foreign
from katacsi.directvolume.names import NO_TARGET, RECORD_FILE, target_entry_name
from katacsi.errors import HostError
from katacsi.host import command, directories, files

if TYPE_CHECKING:
    from pathlib import Path


class KataRuntimeHandover:
    """Has `kata-runtime direct-volume` change the records, and looks whether it did.

    The command writes in place: killed midway it leaves a torn record or a folder without one. The guard is
    mounted before, so no pod writes to the node's disk then; the retry, or the removal, mends it. One that
    outlives a driver might still write when the driver is back, but systemd and containers end both. The
    command writes below Kata's own root, so another `direct_volume_root` is an error at the first record.

    Args:
        root: the root of the records, to look at.
        program: the command, a name or a path.
        configuration: Kata's configuration, when it is not where the command looks for it. Whatever it is
            asked, it loads one first (runtime/cmd/kata-runtime/main.go, beforeSubcommands).
    """

    tears = True
    #: It writes a file on tmpfs; this is for a machine that swaps.
    TIMEOUT_S: Final = 30.0

    def __init__(self, root: Path, program: str, configuration: Path | None = None) -> None:
        self._root = root
        self._program = program
        self._options = [] if configuration is None else ["--kata-config", str(configuration)]

    def prove(self) -> None:
        """Have the command do what changes nothing: remove a record that is not there.

        Raises:
            HostError: it fails; the message has what it said.
        """
        self._run("remove", "--volume-path", NO_TARGET)

    def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """As in `Handover`.

        Raises:
            HostError: the command failed, or there is another record after it; `MissingTool` without it.
        """
        present = present_bytes(self._root, target)
        if present is None or _is_torn(present, data):
            self.replace(target, data)
        elif present != data:
            refuse_foreign(self._root, target, present)
            return True
        return False

    def replace(self, target: str, data: bytes) -> None:
        """As in `Handover`, with the errors of `ensure_unless_other`."""
        path = self._root / target_entry_name(target) / RECORD_FILE
        try:
            self._run("add", "--volume-path", target, "--mount-info", data.decode())
            self._check(path, data)
        except HostError:
            with contextlib.suppress(HostError):
                self._clear(path, data)
            raise

    def remove(self, target: str) -> bool:
        """As in `Handover`, with the errors of `ensure_unless_other`."""
        entry = self._root / target_entry_name(target)
        if not os.path.lexists(entry):
            return False
        self._run("remove", "--volume-path", target)
        if os.path.lexists(entry):
            raise HostError(
                f"{entry}: is still there after `{self._program} direct-volume remove`; {self._other_root()}"
            )
        return True

    def _run(self, action: str, *arguments: str) -> None:
        words = [self._program, *self._options, "direct-volume", action, *arguments]
        command.run(words, timeout_s=self.TIMEOUT_S)

    def _clear(self, path: Path, data: bytes) -> None:
        """Leave nothing half: with a torn record or a bare folder runtime-rs fails every container."""
        present = files.read(path)
        if present is not None and _is_torn(present, data):
            files.ensure_absent(path)
        directories.ensure_directory_absent(path.parent)

    def _check(self, path: Path, data: bytes) -> None:
        present = files.read(path)
        if present != data:
            fact = "is not there" if present is None else "holds something else"
            raise HostError(f"{path}: {fact} after `{self._program} direct-volume add`; {self._other_root()}")

    def _other_root(self) -> str:
        return (
            "the command keeps its records below /run/kata-containers/shared/direct-volumes: set "
            "direct_volume_root to it, or direct_volume.handover to `file`"
        )


def _is_torn(present: bytes, data: bytes) -> bool:
    """Whether this is what writing a record in place leaves when it is cut off; part of one is no record."""
    return present != data and data.startswith(present)
