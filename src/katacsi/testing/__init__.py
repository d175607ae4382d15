"""The kit for authors of backends: a suite that every backend has to pass, ours included.

Install `katacsi[testing]`, subclass `BackendConformance` in a test file of yours, and say how a pool of your
backend is made. The fixture's function may be called several times for the same storage, as restarts do; it
must not touch the storage before `start`::

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
pool; `ConformanceKit` lists them. What your `Features` deny is skipped, with the feature in the reason. The
tests write to real block devices, so most backends need root for them.

The suite says what the docstrings of `katacsi.backends.api` say; where both seem to differ, those win.
"""

import pytest

# Before the modules are imported: their plain asserts shall show what they compared.
pytest.register_assert_rewrite(
    "katacsi.testing.copying",
    "katacsi.testing.devices",
    "katacsi.testing.examining",
    "katacsi.testing.facts",
    "katacsi.testing.listing",
    "katacsi.testing.provisioning",
)

from katacsi.testing.copying import CopyingTests  # noqa: E402
from katacsi.testing.devices import DeviceTests  # noqa: E402
from katacsi.testing.examining import ExaminingTests  # noqa: E402
from katacsi.testing.facts import FactsTests  # noqa: E402
from katacsi.testing.kit import ConformanceKit, PoolUnderTest  # noqa: E402
from katacsi.testing.listing import ListingTests  # noqa: E402
from katacsi.testing.provisioning import ProvisioningTests  # noqa: E402

__all__ = ["BackendConformance", "ConformanceKit", "PoolUnderTest"]


class BackendConformance(
    ProvisioningTests, DeviceTests, FactsTests, ListingTests, CopyingTests, ExaminingTests, ConformanceKit
):
    """The whole suite; see the module."""
