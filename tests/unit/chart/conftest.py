"""helm for the tests of the chart, or the reason why there is none."""

from __future__ import annotations

import os

import pytest

import kubetools


@pytest.fixture(scope="session", autouse=True)
def helm():
    """The path of helm; where it cannot be had the tests are skipped, in CI they fail."""
    try:
        return kubetools.path("helm")
    except kubetools.Unavailable as reason:
        if "unit" in os.environ.get("KATACSI_REQUIRE", "").replace(",", " ").split():
            pytest.fail(str(reason))
        pytest.skip(str(reason))
