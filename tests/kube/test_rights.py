"""The rules of the chart: none is missing, and none is too much. Runs last: it reads what all others did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kube_audit import granted, requests, unused
from support.kube_chart import NAMESPACE

if TYPE_CHECKING:
    from support.kube_chart import Chart
    from support.kube_lab import Lab
    from support.kube_release import Plugin

#: What happens too seldom to be seen in each run, each with when it does.
SELDOM = {
    ("", "events", "patch"): "an event that is repeated",
    ("events.k8s.io", "events", "patch"): "an event that is repeated",
    ("storage.k8s.io", "csistoragecapacities", "patch"): "an owner that has changed",
    ("storage.k8s.io", "csistoragecapacities", "delete"): "a class or a node that goes",
    ("snapshot.storage.k8s.io", "volumesnapshotcontents", "update"): "a snapshot that a person has prepared",
    ("", "persistentvolumeclaims", "update"): "a claim that is bound at once",
}


def _account(chart: Chart) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{chart.account}"


def test_no_rule_is_missing(lab: Lab, chart: Chart, plugin: Plugin):
    """The driver and its sidecars were refused nothing that they asked of the API."""
    used, refused = requests(lab.files.audit_log, _account(chart))
    assert used
    assert not refused


@pytest.mark.whole_tier
def test_no_rule_is_too_much(lab: Lab, chart: Chart, plugin: Plugin):
    """Each right that the chart gives was used in this run, or it is known when it would be."""
    used, _ = requests(lab.files.audit_log, _account(chart))
    idle = unused(granted(chart, chart.account), used)
    assert not {right for right in idle if right not in SELDOM}
