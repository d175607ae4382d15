"""The two ways to change a record: as a file of ours, or by Kata's own command."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, Protocol

from katacsi.directvolume.names import RECORD_FILE, target_entry_name, temporary_entry_name
from katacsi.directvolume.record import VOLUME_TYPE, DirectVolumeRecord
from katacsi.errors import CorruptRecord, ForeignContent, HostError
from katacsi.host import command, files
from katacsi.host.offloop import off_loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What Kata's own Go code gives its folders and files: a record says which host device a guest gets.
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


class Handover(Protocol):
    """Changes the records of a root. Operations on one target must not overlap."""

    async def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """Have the record there unless another one is; return whether another one is, which then stays.

        Raises:
            ForeignContent: the other one is not of our kind.
        """

    async def replace(self, target: str, data: bytes) -> None:
        """Have the record there, whatever was there before."""

    async def remove(self, target: str) -> bool:
        """Have neither record nor folder there; return whether there was anything."""


class FileHandover:
    """Writes the records itself: each appears whole and lasting, or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """As in `Handover`; one hop off the event loop."""
        return await off_loop(self._ensure_unless_other, target, data)

    async def replace(self, target: str, data: bytes) -> None:
        """As in `Handover`."""
        await off_loop(_write, self._root, target, data)

    async def remove(self, target: str) -> bool:
        """As in `Handover`."""
        return await off_loop(_remove, self._root, target)

    def _ensure_unless_other(self, target: str, data: bytes) -> bool:
        present = _present(self._root, target)
        if present is None:
            _write(self._root, target, data)
        elif present != data:
            _refuse_foreign(self._root, target, present)
            return True
        return False


class KataRuntimeHandover:
    """Has `kata-runtime direct-volume` change the records, and looks whether it did.

    The command writes in place: killed midway it leaves a torn record or a folder without one. The guard is
    mounted before, so no pod writes to the node's disk then; the retry, or the removal, mends it. The command
    writes below Kata's own root only, so another `direct_volume_root` is an error at the first record.

    Args:
        root: the root of the records, to look at.
        program: the command, a name or a path.
    """

    #: It writes a file on tmpfs; this is for a machine that swaps.
    TIMEOUT_S: Final = 30.0

    def __init__(self, root: Path, program: str) -> None:
        self._root = root
        self._program = program

    async def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """As in `Handover`.

        Raises:
            HostError: the command failed, or there is another record after it; `MissingTool` without it.
        """
        present = await off_loop(_present, self._root, target)
        if present is None:
            await self.replace(target, data)
        elif present != data:
            await off_loop(_refuse_foreign, self._root, target, present)
            return True
        return False

    async def replace(self, target: str, data: bytes) -> None:
        """As in `Handover`, with the errors of `ensure_unless_other`."""
        path = self._root / target_entry_name(target) / RECORD_FILE
        try:
            await self._run("add", "--volume-path", target, "--mount-info", data.decode())
            await off_loop(self._check, path, data)
        except HostError:
            # runtime-rs fails every container of a target that has a folder without a record.
            with contextlib.suppress(HostError):
                await off_loop(files.ensure_directory_absent, path.parent)
            raise

    async def remove(self, target: str) -> bool:
        """As in `Handover`, with the errors of `ensure_unless_other`."""
        entry = self._root / target_entry_name(target)
        if not await off_loop(os.path.lexists, entry):
            return False
        await self._run("remove", "--volume-path", target)
        if await off_loop(os.path.lexists, entry):
            raise HostError(
                f"{entry}: is still there after `{self._program} direct-volume remove`; {self._other_root()}"
            )
        return True

    async def _run(self, action: str, *arguments: str) -> None:
        await command.run([self._program, "direct-volume", action, *arguments], timeout_s=self.TIMEOUT_S)

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


# -- one hop off the event loop each -------------------------------------------------------------------


def _present(root: Path, target: str) -> bytes | None:
    return files.read(root / target_entry_name(target) / RECORD_FILE)


def _refuse_foreign(root: Path, target: str, present: bytes) -> None:
    """Refuse to replace a record that katacsi cannot have written.

    Raises:
        ForeignContent: it is whole, and of another type.
    """
    path = root / target_entry_name(target) / RECORD_FILE
    with contextlib.suppress(CorruptRecord):  # a torn one is ours to replace: nobody else writes this target
        other = DirectVolumeRecord.from_json(present, path)
        if other.volume_type != VOLUME_TYPE:
            raise ForeignContent(
                f"{path}: there is a record of type {other.volume_type!r}, which katacsi does not write; "
                "find out whose it is, and remove it"
            )


def _write(root: Path, target: str, data: bytes) -> None:
    files.ensure_directory(root, _FOLDER_MODE)
    # The kubelet makes a missing hostPath 0755. Write access to a record is access to any host device.
    if root.stat().st_mode & 0o077:
        root.chmod(_FOLDER_MODE)
    entry = root / target_entry_name(target)
    with _temporary_folder(root, target) as temporary:
        files.ensure_directory(entry, _FOLDER_MODE)
        try:
            files.write_atomically_via(
                entry / RECORD_FILE, data, temporary_directory=temporary, mode=_FILE_MODE
            )
        except BaseException:
            # runtime-rs fails every container of a target that has a folder without a record. With anything
            # in it the folder was there before, and stays.
            with contextlib.suppress(HostError):
                files.ensure_directory_absent(entry)
            raise


@contextlib.contextmanager
def _temporary_folder(root: Path, target: str) -> Iterator[Path]:
    folder = root / temporary_entry_name(target)
    files.ensure_directory(folder, _FOLDER_MODE)
    try:
        yield folder
    finally:
        files.remove_tree(folder)  # with what a crash left there before


def _remove(root: Path, target: str) -> bool:
    entry = root / target_entry_name(target)
    files.remove_tree(root / temporary_entry_name(target))
    if not os.path.lexists(entry):
        return False
    files.ensure_absent(entry / RECORD_FILE)  # first: what a crash leaves must not be found by Kata
    files.remove_tree(entry)
    return True
