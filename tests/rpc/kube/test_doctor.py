"""What `katacsi doctor` says of the Kubernetes API that the driver is to ask."""

from __future__ import annotations

import pytest

from katacsi.doctor import cluster
from katacsi.doctor.cluster import ClusterFacts
from katacsi.doctor.node import Node
from katacsi.findings import NOT_LOOKED, Verdict
from katacsi.settings import KubeSettings


@pytest.fixture
def settings(server):
    return KubeSettings(enabled=True, kubeconfig=str(server.write_kubeconfig()), timeout=1)


async def said(settings):
    """Give the verdict and all words on an API server."""
    results = list(cluster.cluster(Node(cluster=await cluster.find(settings))))
    assert len(results) == 1
    return results[0].verdict, f"{results[0].subject} {results[0].fact} {results[0].remedy}"


async def test_a_server_that_permits_everything_is_fine(server, settings):
    """Each rule is asked for once, and nothing else is touched."""
    verdict, words = await said(settings)
    assert verdict is Verdict.OK
    assert f"https://127.0.0.1:{server.port}" in words
    assert len(server.requests) == 7


@pytest.mark.parametrize(
    "rule",
    [
        *("get pods", "get persistentvolumeclaims", "get persistentvolumes", "get runtimeclasses"),
        *("list persistentvolumes", "patch events"),
    ],
)
async def test_a_missing_rule_is_named(server, settings, rule):
    """An account that lacks a rule would fail at the first claim or pod; doctor says which, and what for."""
    server.forbidden.add(rule)
    verdict, words = await said(settings)
    assert verdict is Verdict.FAILURE
    assert f"may not: {rule}" in words


async def test_rules_for_events_are_needed_where_events_are_written(server, settings):
    """With `kube.events: false` nobody misses them."""
    server.forbidden.add("create events")
    verdict, _ = await said(settings.model_copy(update={"events": False}))
    assert verdict is Verdict.OK


async def test_the_rule_for_orphans_is_needed_where_they_are_looked_for(server, settings):
    """With `kube.orphan_interval: 0` nobody misses it."""
    server.forbidden.add("list persistentvolumes")
    verdict, _ = await said(settings.model_copy(update={"orphan_interval": 0}))
    assert verdict is Verdict.OK


@pytest.mark.parametrize("fault", ["hangs", "gone", "refuses the token"])
async def test_a_server_that_does_not_answer_is_a_failure(server, settings, fault):
    """So are one that hangs, one that is gone, and one that does not know the account."""
    if fault == "hangs":
        server.hanging = True
    elif fault == "gone":
        await server.stop()
    else:
        server.rotate_token(give=False)
    verdict, words = await said(settings)
    assert verdict is Verdict.FAILURE
    assert "127.0.0.1" in words


async def test_outside_of_the_drivers_pod_nothing_is_known(monkeypatch):
    """Without an account there is nothing to judge, and doctor says where to run it."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    verdict, words = await said(KubeSettings(enabled=True))
    assert verdict is Verdict.UNKNOWN
    assert "run doctor in the driver's pod" in words


async def test_a_driver_that_does_not_ask_is_not_judged():
    """With `kube.enabled: false` there is no line."""
    facts = await cluster.find(KubeSettings())
    assert facts is NOT_LOOKED
    assert list(cluster.cluster(Node(cluster=facts))) == []
    assert list(cluster.cluster(Node(cluster=ClusterFacts("s")))) != []
