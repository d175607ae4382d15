"""The reference backend of the kit's tests keeps the contract; `test_kit_mutants` breaks it."""

from katacsi.testing.conformance import FullConformance as BackendConformance
from support.kit_disks import OnDisks


class TestReference(OnDisks, BackendConformance):
    """Six disks, one larger than the others, all with old bytes on them."""
