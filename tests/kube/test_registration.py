"""The driver registers itself with the real kubelet, lets go of it, and comes again when it was refused."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from kube_files import NODE
from support.kube_chart import DRIVER
from support.kube_http import until
from support.kube_lab import KUBELET
from support.kube_objects import claim, pod, storage_class
from support.kube_release import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube_lab import Lab
    from support.kube_work import Work

SOCKET = KUBELET / "plugins_registry" / f"{DRIVER}-reg.sock"


def known(lab: Lab) -> bool:
    """Whether the kubelet has the driver: it says so in the node's CSINode."""
    node = lab.api.get("CSINode", NODE) or {"spec": {}}
    return DRIVER in [driver["name"] for driver in node["spec"].get("drivers") or []]


def said(plugin: Plugin, event: str, after: int = 0) -> list[dict[str, Any]]:
    """What the driver's log says, from a line on."""
    lines = plugin.log.read_text("utf-8").splitlines()[after:]
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry["event"].startswith(event)]


@pytest.fixture
def alone(lab: Lab, plugin: Plugin) -> Iterator[Plugin]:
    """The session's driver, for a test that stops it; afterwards it serves as before."""
    yield plugin
    assert plugin.driver is not None
    plugin.driver.end()
    plugin.start_driver()
    until("the kubelet has taken the driver again", lambda: known(lab))


def test_the_kubelet_has_the_driver_while_it_serves(lab: Lab, alone: Plugin):
    """Stopped it is unregistered and leaves no socket; started again, it is known at once."""
    assert known(lab)
    assert alone.driver is not None
    alone.driver.end(signal.SIGTERM)
    assert not lab.path(SOCKET).exists()
    until("the kubelet has let go of it", lambda: not known(lab))
    alone.start_driver()
    until("the kubelet has taken it", lambda: known(lab), 20)


def test_a_killed_driver_is_registered_anew(lab: Lab, alone: Plugin):
    """SIGKILL leaves the socket's file; the next start replaces it, and the kubelet asks again."""
    alone.crash()
    assert lab.path(SOCKET).is_socket()
    lines = len(alone.log.read_text("utf-8").splitlines())
    alone.start_driver()
    until("the kubelet says that it took it", lambda: said(alone, "registered with the kubelet", lines), 20)


def test_a_driver_that_was_refused_comes_again_by_itself(lab: Lab, alone: Plugin):
    """Sent to a CSI socket that is not there, the kubelet refuses once; it is told anew until it is there."""
    later = KUBELET / "plugins" / "later.sock"
    assert alone.driver is not None
    alone.driver.end()
    lines = len(alone.log.read_text("utf-8").splitlines())
    settings = {"kubelet": {"registration_socket": str(SOCKET), "endpoint": str(later)}}
    sent = Plugin(lab, alone.chart, settings=settings)
    sent.start_driver()
    alone.driver = sent.driver
    refused = until("the refusal is in the log", lambda: said(sent, "the kubelet refused", lines), 60)
    assert refused[0]["level"] == "error"
    assert refused[0]["reason"]
    lab.run("ln", "-s", str(sent.socket), str(later))
    try:
        until("the kubelet took it", lambda: said(sent, "registered with the kubelet", lines), 120)
        until("the node has it", lambda: known(lab))
    finally:
        lab.run("rm", str(later))


def test_a_mistake_in_a_class_is_told_on_the_claim(work: Work):
    """The class has room for the scheduler, so CreateVolume is called, and an Event says what is wrong."""
    for name, parameters, told in (
        ("typo-key", {"katacsi.io/pol": "default"}, "unknown parameter"),
        ("typo-value", {"katacsi.io/direct": "yes"}, "is not one of auto, true, false"),
        (
            "typo-pool",
            {"katacsi.io/pool": "none"},
            "no pool 'none' on this node; pools here: default, reflink",
        ),
    ):
        work.make(storage_class(name, DRIVER, parameters), claim(name, name), pod(name, name))
        work.event(name, told)
