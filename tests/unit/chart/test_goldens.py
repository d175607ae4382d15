"""What the chart renders is what a person has reviewed, in every shape and for each gate of a version."""

from __future__ import annotations

import pytest

import chart_goldens
from chart_goldens import CASES, CHART, GOLDEN, LOCAL, LVM, NETWORK


@pytest.mark.parametrize("name", CASES)
def test_the_chart_renders_its_goldens(name):
    """A rendering is, line for line, the file in golden/; tools/chart_goldens.py writes them anew."""
    assert chart_goldens.golden(CASES[name]) == (GOLDEN / f"{name}.yaml").read_text("utf-8")


def test_every_golden_has_a_case():
    """No file in golden/ is left of a case that has gone."""
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("values", [LOCAL, LVM, NETWORK], ids=["local", "lvm", "network"])
def test_helm_lint_is_content(values):
    """`helm lint --strict` finds nothing in any shape."""
    said = chart_goldens.helm("lint", "--strict", CHART, values=values)
    assert "0 chart(s) failed" in said
