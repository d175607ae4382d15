"""The cluster of the session: booted once, with katacsi and its sidecars as processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kube_lab
from kube_cluster import bound_cluster
from support.kube_chart import Chart, install
from support.kube_lab import Lab
from support.kube_release import Plugin, start_snapshot_controller
from support.kube_work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

LABS = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Give a real cluster of one node that is up; skip where there can be none, and say why."""
    if reason := kube_lab.why_not():
        pytest.skip(reason)
    with bound_cluster(Path("/var/tmp")) as cluster:
        lab = Lab(cluster)
        request.config.stash[LABS] = lab
        seconds = lab.up()
        print("the cluster is up:", ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
        yield lab
        lab.down()


@pytest.fixture(scope="session")
def chart(lab: Lab) -> Chart:
    """Give the chart, which is applied."""
    return install(lab)


@pytest.fixture(scope="session")
def plugin(lab: Lab, chart: Chart) -> Plugin:
    """Give the driver of node-1 with its sidecars; the cluster has its snapshot-controller."""
    start_snapshot_controller(lab)
    plugin = Plugin(lab, chart)
    plugin.start()
    return plugin


@pytest.fixture
def work(lab: Lab, plugin: Plugin) -> Iterator[Work]:
    """Give what a test makes its claims and pods with; afterwards nothing of them may be left anywhere."""
    plugin.wait_registered()  # the test before may have stopped it
    work = Work(lab, plugin)
    yield work
    work.clean_up()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show of a failed test what everybody said last: the cluster and its logs are gone afterwards."""
    report = yield
    lab = item.config.stash.get(LABS, None)
    if report.failed and lab is not None:
        for log in sorted(lab.files.log.glob("*-node-*.log")):
            report.sections.append((log.name, _last_lines(log)))
    return report


def _last_lines(log: Path) -> str:
    """Return the end of a log, without the driver's answers to what it is asked all the time."""
    lines = log.read_text("utf-8", "replace").splitlines()
    if log.name.startswith("katacsi-"):
        dull = ("Capabilities", '"Probe"', '"GetPluginInfo"', '"GetCapacity"')
        lines = [line for line in lines if not any(word in line for word in dull)][-30:]
    else:
        lines = lines[-8:]
    return "\n".join(line[:400] for line in lines)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run last what looks back at all others; skip it where not all others run."""
    files = {item.path.name for item in items}
    here = {file.name for file in Path(__file__).parent.glob("test_*.py")}
    for item in items:
        if item.get_closest_marker("whole_tier") and not here <= files:
            reason = "it looks back at the whole tier: make test TIER=kube"
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.path.name == "test_rights.py" and item.path.parent.name == "kube")
