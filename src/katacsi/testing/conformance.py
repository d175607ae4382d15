"""The suite that every backend has to pass, put together; it is imported as `katacsi.testing` gives it."""

import pytest

# Before the modules are imported: their plain asserts shall show what they compared.
pytest.register_assert_rewrite(
    "katacsi.testing.copying",
    "katacsi.testing.devices",
    "katacsi.testing.facts",
    "katacsi.testing.listing",
    "katacsi.testing.provisioning",
)

from katacsi.testing.copying import CopyingTests  # noqa: E402
from katacsi.testing.devices import DeviceTests  # noqa: E402
from katacsi.testing.facts import FactsTests  # noqa: E402
from katacsi.testing.kit import ConformanceKit, PoolUnderTest  # noqa: E402
from katacsi.testing.listing import ListingTests  # noqa: E402
from katacsi.testing.provisioning import ProvisioningTests  # noqa: E402

__all__ = ["BackendConformance", "ConformanceKit", "PoolUnderTest"]


class BackendConformance(
    ProvisioningTests, DeviceTests, FactsTests, ListingTests, CopyingTests, ConformanceKit
):
    """The whole suite; see `katacsi.testing`."""
