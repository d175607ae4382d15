"""The tests that have to find the broken backends: a class for each, with no other tests than those named.

Collected by a pytest of its own, in which they fail; `kit_recorder` tells how.
"""

from __future__ import annotations

import importlib

import pytest

from katacsi.testing import BackendConformance
from katacsi.testing.kit import ConformanceKit
from support.kit_appliance import Appliance, OnAppliance
from support.kit_disks import OnDisks
from support.kit_mutants.registry import MUTANTS

for _module in ("facts", "volumes", "devices", "network"):
    importlib.import_module(f"support.kit_mutants.{_module}")


def _function(test: str) -> str:
    return test.partition("[")[0]


def _classes() -> dict[str, type]:
    """Give a class of tests for each broken backend, with the tests that have to find it."""
    classes = {}
    for mutant in MUTANTS:
        tests = {_function(test): getattr(BackendConformance, _function(test)) for test in mutant.tests}
        name = f"Test{mutant.backend.__name__}"
        marks = {"pytestmark": [pytest.mark.asyncio], "__module__": __name__, "backend": mutant.backend}
        fixtures = OnAppliance if issubclass(mutant.backend, Appliance) else OnDisks
        classes[name] = type(name, (fixtures, ConformanceKit), {**marks, **tests})
    return classes


globals().update(_classes())
