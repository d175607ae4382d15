"""Hooks with which an author lets the kit break things; a test whose hook is not given is skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from katacsi.backends.api import Volume

    #: Breaks something until the end of a `with` block.
    Breaking = Callable[[], AbstractContextManager[object]]
    BreakingVolume = Callable[[Volume], AbstractContextManager[object]]


class Hooks:
    """Fixtures that an author overrides; each gives a function that the tests call.

    What is broken is not attached meanwhile, and has to be whole again at the end of the `with` block. Where
    a pool believes for some seconds what it saw before, the hook waits so long, each time. An
    example, for volumes that are files in a folder::

        @pytest.fixture
        def break_storage(self, tmp_path):
            @contextlib.contextmanager
            def unmounted():
                (tmp_path / "pool").rename(tmp_path / "away")
                (tmp_path / "pool").mkdir()  # what is left of a folder whose disk was unmounted
                yield
                shutil.rmtree(tmp_path / "pool")
                (tmp_path / "away").rename(tmp_path / "pool")

            return unmounted
    """

    @pytest.fixture
    def break_storage(self) -> Breaking:
        """Let the whole storage be away: its disk unmounted, its server down, its tool failing."""
        _missing("break_storage")

    @pytest.fixture
    def break_disk(self) -> BreakingVolume:
        """Let the bytes of this volume be away, while what is written about it is still there."""
        _missing("break_disk")

    @pytest.fixture
    def damage_record(self) -> BreakingVolume:
        """Let what is written about this volume be unreadable, while its bytes are still there."""
        _missing("damage_record")

    @pytest.fixture
    def rename_devices(self) -> Callable[[], object]:
        """Let the kernel call the storage's devices by other names, as after a reboot.

        Two that had volumes should get each other's names. No pool is started meanwhile.
        """
        _missing("rename_devices")


def _missing(hook: str) -> NoReturn:
    pytest.skip(f"no hook {hook}")
