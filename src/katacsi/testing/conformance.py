"""The suite that every backend has to pass, put together; it is imported as `katacsi.testing` gives it."""

import pytest

# Before the modules are imported: their plain asserts shall show what they compared.
pytest.register_assert_rewrite(
    "katacsi.testing.absence",
    "katacsi.testing.copying",
    "katacsi.testing.devices",
    "katacsi.testing.durability",
    "katacsi.testing.examining",
    "katacsi.testing.facts",
    "katacsi.testing.fencing",
    "katacsi.testing.holding",
    "katacsi.testing.identity",
    "katacsi.testing.killing",
    "katacsi.testing.listing",
    "katacsi.testing.pools",
    "katacsi.testing.provisioning",
    "katacsi.testing.rooming",
    "katacsi.testing.tidiness",
)

from katacsi.testing.absence import AbsenceTests  # noqa: E402
from katacsi.testing.copying import CopyingTests  # noqa: E402
from katacsi.testing.devices import DeviceTests  # noqa: E402
from katacsi.testing.durability import DurabilityTests  # noqa: E402
from katacsi.testing.examining import ExaminingTests  # noqa: E402
from katacsi.testing.facts import FactsTests  # noqa: E402
from katacsi.testing.fencing import FencingTests  # noqa: E402
from katacsi.testing.holding import HoldingTests  # noqa: E402
from katacsi.testing.identity import IdentityTests  # noqa: E402
from katacsi.testing.killing import KillingTests  # noqa: E402
from katacsi.testing.kit import ConformanceKit  # noqa: E402
from katacsi.testing.listing import ListingTests  # noqa: E402
from katacsi.testing.pools import PoolUnderTest  # noqa: E402
from katacsi.testing.provisioning import ProvisioningTests  # noqa: E402
from katacsi.testing.rooming import RoomTests  # noqa: E402
from katacsi.testing.tidiness import TidinessTests  # noqa: E402

__all__ = ["BackendConformance", "ConformanceKit", "PoolUnderTest"]


class BackendConformance(
    ProvisioningTests,
    RoomTests,
    DeviceTests,
    HoldingTests,
    FactsTests,
    ListingTests,
    IdentityTests,
    AbsenceTests,
    DurabilityTests,
    FencingTests,
    CopyingTests,
    KillingTests,
    TidinessTests,
    ExaminingTests,
    ConformanceKit,
):
    """The whole suite; see `katacsi.testing`."""
