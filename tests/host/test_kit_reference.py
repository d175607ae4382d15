"""The reference backends of the kit's tests keep the contract; `test_kit_mutants` breaks them."""

from katacsi.testing import BackendConformance
from support.kit_appliance import OnAppliance
from support.kit_disks import OnDisks


class TestReference(OnDisks, BackendConformance):
    """Six disks, one larger than the others, all with old bytes on them."""


class TestAppliance(OnAppliance, BackendConformance):
    """Storage in the network, and two nodes."""
