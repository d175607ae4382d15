"""What tests of backends and of drivers stand on, ours included.

`BackendConformance` is the kit for authors of backends: a suite that every backend has to pass. Install
`katacsi[testing]`, subclass it in a test file of yours, and say how a pool of your backend is made. The
fixture's function may be called several times for the same storage, as restarts do; it must not touch the
storage before `start`::

    import pytest
    from katacsi.testing import BackendConformance
    from my_backend import MyBackend

    class TestMyBackend(BackendConformance):
        entry_point = "mine"  # the name in group katacsi.backends; checked too, if given

        @pytest.fixture
        def make_backend(self, tmp_path):
            settings = MyBackend.Settings(directory=tmp_path)
            return lambda context: MyBackend(settings, context)

Every test gets a fresh pool from that fixture, and frees what it made. Class attributes adapt the suite to a
pool; `ConformanceKit` lists them. With hooks, which `hooks` lists, it takes storage, disks and records away,
too. What your pool does not have is skipped, as is a test without its hook, with the reason. The tests write
to real block devices, so most backends need root for them.

The suite says what the docstrings of `katacsi.backends.api` say; where both seem to differ, those win.

`crashes` kills a call of yours at every step, as the suite does with those of the contract.

`kubelet` makes the calls of the kubelet and of the sidecars, `process` runs a driver, `leaks` finds what is
left in the kernel. The demo uses these too, so nothing but the kit imports pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from katacsi.testing.conformance import BackendConformance, ConformanceKit, PoolUnderTest

__all__ = ["BackendConformance", "ConformanceKit", "PoolUnderTest"]


def __getattr__(name: str) -> object:
    """Give the kit when it is asked for: it imports pytest, which a node does not have."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("katacsi.testing.conformance"), name)
