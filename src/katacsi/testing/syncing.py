"""What this process writes to files, and whether it waited until that was on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from katacsi.testing import steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from katacsi.testing.steps import Step

    Identity = tuple[int, int]

#: Where nothing outlasts a reboot, and nothing has to be synced.
_IN_MEMORY: Final = ("/run/", "/dev/", "/proc/", "/sys/")

_NAMING: Final = frozenset({"mkdir", "rename", "replace", "link", "symlink", "rename_noreplace"})
_OF_TWO: Final = _NAMING - {"mkdir"}
#: The place of the descriptor that is written to.
_WRITING: Final = {
    **dict.fromkeys(("write", "pwrite", "writev", "pwritev", "ftruncate", "fallocate", "sendfile"), 0),
    "posix_fallocate": 0,
    "copy_file_range": 1,
}


class WriteWatch:
    """Notes which files were written, which names were given, and what was synced after that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Files by identity, and names by folder, that changed and were not synced since.
        self._files: set[Identity] = set()
        self._names: dict[str, set[str]] = {}
        self._places: set[str] = set()
        self.wrote = False
        #: What was synced of all that: files by identity, folders by path.
        self.synced_files: set[Identity] = set()
        self.synced_folders: set[str] = set()

    def unsynced(self) -> list[str]:
        """Name what is there now and might not be there after a power cut."""
        there = self.present()
        files = [f"the content of {there[file]}" for file in self._files if file in there]
        names = [
            f"the name {Path(folder, name)}"
            for folder, changed in self._names.items()
            for name in sorted(changed)
            if _is_something(Path(folder, name))
        ]
        return files + names

    def present(self) -> dict[Identity, str]:
        """Give the files of all folders in which something was written, by identity."""
        found = {}
        for place in self._places:
            with contextlib.suppress(OSError):
                for path in Path(place).iterdir():
                    found[_identity(path.stat(follow_symlinks=False))] = str(path)
        return found

    def before(self, step: Step) -> None:
        """Have no opinion: what counts is what was done."""

    def after(self, step: Step, result: object) -> None:
        """Note a step that was done; what is gone already need not last."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._note(step, result)

    def _note(self, step: Step, result: Any) -> None:  # noqa: ANN401 -- as the function gave
        if step.name == "sync":
            self._files.clear()
            self._names.clear()
        elif step.name in steps.SYNCS:
            self._synced(_number(step.arguments[0]))
        elif step.name in _NAMING:
            self._named(os.fspath(step.arguments[step.name in _OF_TWO]))
        elif step.name in _WRITING:
            self._written(_number(step.arguments[_WRITING[step.name]]))
        elif step.opens_to_write:
            if step.name == "open":  # Python's own file objects write without a call of `os`
                self._written(result.fileno())
            if step.opens_to_create:
                self._named(_path(_number(result)))

    def _written(self, descriptor: int) -> None:
        path = _path(descriptor)
        if not Path(path).is_file() or path.startswith(_IN_MEMORY):
            return
        self.wrote = True
        self._places.add(os.path.dirname(path))  # noqa: PTH120 -- as the names are kept
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_DSYNC | os.O_SYNC):
            self._files.add(_identity(os.fstat(descriptor)))

    def _named(self, path: str) -> None:
        at = Path(os.path.abspath(path))  # noqa: PTH100 -- the name itself, though it be a link
        folder = os.path.realpath(at.parent)
        if not f"{folder}/".startswith(_IN_MEMORY):
            self._places.add(folder)
            self._names.setdefault(folder, set()).add(at.name)

    def _synced(self, descriptor: int) -> None:
        identity, path = _identity(os.fstat(descriptor)), _path(descriptor)
        if identity in self._files or Path(path).is_file():
            self._files.discard(identity)
            self.synced_files.add(identity)
        elif Path(path).is_dir():
            self._names.pop(path, None)
            self.synced_folders.add(path)


class _FailingSyncs:
    """Lets every sync fail as on a disk that does not work."""

    def __init__(self) -> None:
        self.count = 0

    def before(self, step: Step) -> None:
        if step.name in steps.SYNCS:
            self.count += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def after(self, step: Step, result: object) -> None:
        pass


@contextlib.contextmanager
def watching_writes() -> Iterator[WriteWatch]:
    """Watch what is written and synced in the `with` block."""
    watch = WriteWatch()
    with steps.watched(watch):
        yield watch


@contextlib.contextmanager
def failing_syncs() -> Iterator[_FailingSyncs]:
    """Let every sync in the `with` block fail; how many there were is told by `count`."""
    failing = _FailingSyncs()
    with steps.watched(failing):
        yield failing


def _number(file: Any) -> int:  # noqa: ANN401 -- a number, or what has one
    return file if isinstance(file, int) else int(file.fileno())


def _path(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 -- text as the kernel has it


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_something(path: Path) -> bool:
    """Whether there is more than an empty file, which a lock is."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return False
    return not path.is_file() or status.st_size > 0
