"""What changes records: this process, which writes them as files, or Kata's command (`kata_runtime`)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

from katacsi.directvolume.names import RECORD_FILE, target_entry_name, temporary_entry_name
from katacsi.directvolume.record import VOLUME_TYPE, DirectVolumeRecord
from katacsi.errors import CorruptRecord, ForeignContent, HostError
from katacsi.host import directories, files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What Kata's own Go code gives its folders and files: a record says which host device a guest gets.
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


class Handover(Protocol):
    """Changes the records of a root; it blocks. Operations on one target must not overlap.

    Attributes:
        tears: whether a crash may leave half of a record, which a retry has to mend.
    """

    tears: bool

    def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """Have the record there unless another one is; return whether another one is, which then stays.

        Raises:
            ForeignContent: the other one is not of our kind.
        """

    def replace(self, target: str, data: bytes) -> None:
        """Have the record there, whatever was there before."""

    def remove(self, target: str) -> bool:
        """Have neither record nor folder there; return whether there was anything."""


class FileHandover:
    """Writes the records itself: each appears whole and lasting, or not at all."""

    tears = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def ensure_unless_other(self, target: str, data: bytes) -> bool:
        """As in `Handover`."""
        present = present_bytes(self._root, target)
        if present is None:
            _write(self._root, target, data)
        elif present != data:
            refuse_foreign(self._root, target, present)
            return True
        return False

    def replace(self, target: str, data: bytes) -> None:
        """As in `Handover`."""
        _write(self._root, target, data)

    def remove(self, target: str) -> bool:
        """As in `Handover`."""
        return _remove(self._root, target)


def present_bytes(root: Path, target: str) -> bytes | None:
    """Read what is there instead of a target's record, or is it; `None` when there is nothing."""
    return files.read(root / target_entry_name(target) / RECORD_FILE)


def refuse_foreign(root: Path, target: str, present: bytes) -> None:
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
    directories.ensure_directory(root, _FOLDER_MODE)
    # The kubelet makes a missing hostPath 0755. Write access to a record is access to any host device.
    if root.stat().st_mode & 0o077:
        root.chmod(_FOLDER_MODE)
    entry = root / target_entry_name(target)
    with _temporary_folder(root, target) as temporary:
        directories.ensure_directory(entry, _FOLDER_MODE)
        try:
            files.write_atomically_via(
                entry / RECORD_FILE, data, temporary_directory=temporary, mode=_FILE_MODE
            )
        except BaseException:
            # runtime-rs fails every container of a target that has a folder without a record. With anything
            # in it the folder was there before, and stays.
            with contextlib.suppress(HostError):
                directories.ensure_directory_absent(entry)
            raise


@contextlib.contextmanager
def _temporary_folder(root: Path, target: str) -> Iterator[Path]:
    folder = root / temporary_entry_name(target)
    directories.ensure_directory(folder, _FOLDER_MODE)
    try:
        yield folder
    finally:
        directories.remove_tree(folder)  # with what a crash left there before


def _remove(root: Path, target: str) -> bool:
    entry = root / target_entry_name(target)
    directories.remove_tree(root / temporary_entry_name(target))
    if not os.path.lexists(entry):
        return False
    files.ensure_absent(entry / RECORD_FILE)  # first: what a crash leaves must not be found by Kata
    directories.remove_tree(entry)
    return True
